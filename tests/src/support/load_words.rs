//! The words of a load, as arguments of the program `scenarios` that runs it.

use std::{ffi::OsString, path::Path};

/// The arguments that run the load of these words: `@NAME` is a file of the directory, `%` the tmpfs.
pub fn arguments(words: &[&str], dir: &Path, tmpfs: &Path) -> Vec<OsString> {
    let argument = |word: &&str| match word.strip_prefix('@') {
        Some(file) => dir.join(file).into(),
        None if *word == "%" => tmpfs.into(),
        None => OsString::from(word),
    };
    std::iter::once("load".into()).chain(words.iter().map(argument)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_and_the_tmpfs_become_paths() {
        let arguments = arguments(&["read", "@a", "%", "5"], Path::new("/dir"), Path::new("/shm"));
        assert_eq!(arguments, ["load", "read", "/dir/a", "/shm", "5"]);
    }
}
