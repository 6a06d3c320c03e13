//! How much memory the cgroups of this process allow. Reads /proc and /sys only.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The lowest limit of this process's cgroup and those above it, in bytes, as far as they are visible.
pub fn memory_limit() -> Option<u64> {
    levels().into_iter().map(|level| level.limit).min()
}

/// What is left of the limit that is nearest to being reached, in bytes; reclaimable memory counts as free.
pub fn memory_headroom() -> Option<u64> {
    levels()
        .into_iter()
        .map(|level| {
            let used = read_number(&level.directory.join(level.usage)).unwrap_or(0);
            let stat = fs::read_to_string(level.directory.join("memory.stat")).unwrap_or_default();
            headroom(level.limit, used, reclaimable(&stat))
        })
        .min()
}

fn headroom(limit: u64, used: u64, reclaimable: u64) -> u64 {
    limit.saturating_sub(used.saturating_sub(reclaimable))
}

/// A cgroup that has a limit.
struct Level {
    directory: PathBuf,
    /// The file that says how much is in use.
    usage: &'static str,
    limit: u64,
}

fn levels() -> Vec<Level> {
    let Ok(groups) = fs::read_to_string("/proc/self/cgroup") else {
        return Vec::new();
    };
    let mut levels = Vec::new();
    for place in groups.lines().filter_map(place) {
        let directory = Path::new(place.root).join(place.path.trim_start_matches('/'));
        let above = directory
            .ancestors()
            .take_while(|directory| directory.starts_with(place.root));
        levels.extend(above.filter_map(|directory| {
            Some(Level {
                directory: directory.to_owned(),
                usage: place.usage,
                limit: limit(&fs::read_to_string(directory.join(place.limit)).ok()?)?,
            })
        }));
    }
    levels
}

/// Where a line of /proc/self/cgroup that limits memory leads to: of cgroup v2, or of v1's memory controller.
#[derive(Debug, PartialEq, Eq)]
struct Place<'a> {
    root: &'static str,
    path: &'a str,
    limit: &'static str,
    usage: &'static str,
}

fn place(line: &str) -> Option<Place<'_>> {
    let (_, rest) = line.split_once(':')?;
    let (controllers, path) = rest.split_once(':')?;
    if controllers.is_empty() {
        return Some(Place {
            root: "/sys/fs/cgroup",
            path,
            limit: "memory.max",
            usage: "memory.current",
        });
    }
    controllers
        .split(',')
        .any(|controller| controller == "memory")
        .then_some(Place {
            root: "/sys/fs/cgroup/memory",
            path,
            limit: "memory.limit_in_bytes",
            usage: "memory.usage_in_bytes",
        })
}

/// `None` for `max`, and for what v1 has in its place.
fn limit(text: &str) -> Option<u64> {
    let bytes = text.trim().parse().ok()?;
    (bytes < 1 << 60).then_some(bytes)
}

fn read_number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The pages of files that were not used lately.
fn reclaimable(stat: &str) -> u64 {
    stat.lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(name, _)| matches!(*name, "inactive_file" | "total_inactive_file"))
        .and_then(|(_, bytes)| bytes.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_cgroups() {
        let unified = place("0::/kubepods.slice/pod1").unwrap();
        assert_eq!(
            (unified.root, unified.path, unified.limit),
            ("/sys/fs/cgroup", "/kubepods.slice/pod1", "memory.max")
        );
        assert_eq!(
            place("7:memory:/docker/1").map(|place| place.limit),
            Some("memory.limit_in_bytes")
        );
        assert_eq!(place("3:cpu,cpuacct:/"), None);
        assert_eq!(limit("268435456\n"), Some(268_435_456));
        assert_eq!(limit("max\n"), None);
        assert_eq!(limit("9223372036854771712\n"), None);
    }

    #[test]
    fn headroom_below_the_limit() {
        assert_eq!(reclaimable("anon 5\ninactive_file 30\n"), 30);
        assert_eq!(reclaimable("cache 1\ntotal_inactive_file 7\n"), 7);
        assert_eq!(headroom(100, 90, 30), 40);
        assert_eq!(headroom(100, 20, 30), 100);
        assert_eq!(headroom(100, 150, 10), 0);
    }
}
