//! The machine in words that fit any machine of its kind: no names, no paths.

use std::path::Path;

/// Cores, memory and file system.
pub fn description(folder: &Path) -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib: f64 = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next())
        .and_then(|kib| kib.parse().ok())
        .unwrap_or(0.0);
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    format!(
        "{cores} cores ({}), {:.0} GiB of memory, {} file system, Linux",
        std::env::consts::ARCH,
        kib / f64::from(1 << 20),
        file_system(&mounts, folder).unwrap_or("unknown"),
    )
}

/// The type of the file system that is mounted nearest above a folder.
fn file_system<'a>(mounts: &'a str, folder: &Path) -> Option<&'a str> {
    mounts
        .lines()
        .filter_map(|line| {
            let point = line.split(' ').nth(4)?;
            let kind = line.split_once(" - ")?.1.split(' ').next()?;
            folder.starts_with(point).then_some((point.len(), kind))
        })
        .max_by_key(|(length, _)| *length)
        .map(|(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_mount_tells_the_file_system() {
        let mounts = "1 0 8:1 / / rw shared:1 - ext4 /dev/a rw\n\
                      2 1 0:5 / /srv rw - xfs /dev/b rw\n\
                      3 1 0:6 / /srvx rw - tmpfs none rw\n";
        assert_eq!(file_system(mounts, Path::new("/srv/data")), Some("xfs"));
        assert_eq!(file_system(mounts, Path::new("/home")), Some("ext4"));
    }
}
