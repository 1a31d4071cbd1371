//! The form of a cgroup's path in a configuration: below the root of the hierarchy, as /proc/PID/cgroup
//! has it. A path in another form is compared with the kernel's and never matches. Pure.
//!
//! Not here: whether the cgroup exists; it may be created later.

use anyhow::{Result, bail, ensure};

/// Where the hierarchies are mounted by convention.
const MOUNT: &str = "/sys/fs/cgroup";

/// Directories below [`MOUNT`] that are mount points themselves, on hosts with v1.
const HIERARCHIES: [&str; 3] = ["memory", "unified", "systemd"];

/// An error if no cgroup can have this path. It shows the right form if that is certain.
pub fn check(path: &str) -> Result<()> {
    let parts: Vec<_> = path.split('/').collect();
    ensure!(
        path.starts_with('/') && path.len() > 1 && !parts.contains(&".."),
        "{path:?} is not a path such as /system.slice/nginx.service"
    );
    let below = path.strip_prefix(MOUNT).filter(|rest| rest.is_empty() || rest.starts_with('/'));
    let parts = below.map_or(parts, |below| below.split('/').collect());
    let mut named: Vec<_> = parts.into_iter().filter(|part| !["", "."].contains(part)).collect();
    if below.is_some() && named.first().is_some_and(|first| HIERARCHIES.contains(first)) {
        named.remove(0);
    }
    let right = format!("/{}", named.join("/"));
    if below.is_some() {
        bail!("{path:?} contains the mount point {MOUNT}: write the path below it, {right:?}");
    }
    ensure!(path == right, "{path:?} is not the form that the kernel uses: write {right:?}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_form_is_refused_with_the_right_one() {
        for (path, message) in [
            ("", "not a path such as"),
            ("/", "not a path such as"),
            ("nginx.service", "not a path such as"),
            ("/../a", "not a path such as"),
            ("/a//b", "write \"/a/b\""),
            ("//a", "write \"/a\""),
            ("/a/b/", "write \"/a/b\""),
            ("/a/./b", "write \"/a/b\""),
            ("/sys/fs/cgroup/system.slice/a.service", "below it, \"/system.slice/a.service\""),
            ("/sys/fs/cgroup/memory/docker/1/", "below it, \"/docker/1\""),
            ("/sys/fs/cgroup/unified/a", "below it, \"/a\""),
            ("/sys/fs/cgroup", "below it, \"/\""),
        ] {
            let error = check(path).expect_err(path).to_string();
            assert!(error.contains(message), "{path:?}: {error}");
        }
    }

    #[test]
    fn paths_of_the_kernel_are_accepted() {
        for path in [
            "/system.slice/nginx.service",
            "/system.slice/system-php\\x2dfpm.slice/php-fpm@8.2.service",
            "/sys/fs/cgroups",
            "/a/...",
            "/unified/b c",
        ] {
            check(path).expect(path);
        }
    }
}
