//! What systemd says about the shipped units.

/// The lines of `systemd-analyze verify` other than those of systemd before 254 about settings that
/// it does not know.
pub fn warnings(output: &str) -> Vec<&str> {
    let newer = ["'RestartSteps'", "'RestartMaxDelaySec'"];
    let ignored =
        |line: &str| line.contains("Unknown key") && newer.iter().any(|key| line.contains(key));
    output.lines().filter(|line| !ignored(line)).collect()
}
