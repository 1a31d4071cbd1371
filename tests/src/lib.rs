//! Code for the tests of memsensor and for its measurements.
//!
//! * [`support`]: cgroups, swap, the daemon and Prometheus as tests start them, and independent
//!   counts.
//! * [`lab`]: measurements, which build on `support`. `support` never imports `lab`.
//! * `bin/`: the programs of the lab; `hog`, the workload of all tests; `trim-btf`, which makes
//!   fixtures.

pub mod lab;
pub mod support;

/// Exit code of a program of the lab; an error is printed as one line with its causes.
pub fn exit(result: anyhow::Result<()>) -> std::process::ExitCode {
    match result {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            std::process::ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    /// Paths below a folder of `src`, each with its code without comments.
    fn sources(folder: &Path) -> Vec<(String, String)> {
        let mut all = Vec::new();
        for entry in fs::read_dir(folder).expect("a folder of src") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                all.extend(sources(&path));
                continue;
            }
            let text = fs::read_to_string(&path).expect("a source file");
            let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
            all.push((path.display().to_string(), code.collect::<Vec<_>>().join("\n")));
        }
        assert!(!all.is_empty(), "{} is empty", folder.display());
        all
    }

    fn src(folder: &str) -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(folder)
    }

    fn names_of_lab(code: &str) -> usize {
        code.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| *word == "lab").count()
    }

    #[test]
    fn support_does_not_import_lab() {
        for (path, code) in sources(&src("support")) {
            assert_eq!(names_of_lab(&code), 0, "{path} imports lab");
        }
    }

    #[test]
    fn parts_of_lab_do_not_import_each_other() {
        let root = src("lab").display().to_string();
        for (path, code) in sources(&src("lab")) {
            let part = path[root.len() + 1..].split(['/', '.']).next().expect("a part");
            let imports = code.split("lab::").skip(1);
            let others: Vec<_> = imports.filter(|rest| !rest.starts_with(part)).collect();
            let others: Vec<_> = others.iter().map(|rest| rest.lines().next()).collect();
            assert!(others.is_empty(), "{path} imports another part: {others:?}");
            let paths = code.matches("lab::").count();
            assert_eq!(names_of_lab(&code), paths, "{path} imports lab itself");
            assert!(!code.contains("super::super::"), "{path} imports from above its part");
        }
    }
}
