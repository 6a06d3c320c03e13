//! The cgroup hierarchies of this machine: one (version 2), or one for each controller (version 1).

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

/// Where each hierarchy is mounted, once. A version 2 beside those of version 1 has no controllers and is one of them.
pub fn hierarchies() -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let mut found: Vec<PathBuf> = mounts.lines().filter_map(hierarchy).collect();
    found.sort();
    found.dedup();
    found
}

fn hierarchy(mount: &str) -> Option<PathBuf> {
    let mut fields = mount.split(' ').skip(1);
    let (path, kind) = (fields.next()?, fields.next()?);
    (path.starts_with("/sys/fs/cgroup") && ["cgroup", "cgroup2"].contains(&kind))
        .then(|| path.into())
}

/// The hierarchy that counts memory.
pub fn of_memory() -> Option<PathBuf> {
    hierarchies().into_iter().find(|path| {
        path.ends_with("memory")
            || fs::read_to_string(path.join("cgroup.controllers"))
                .is_ok_and(|controllers| controllers.contains("memory"))
    })
}

/// Makes a group in each hierarchy that the kubelet can make its own in.
pub fn create(name: &str) -> std::io::Result<()> {
    for hierarchy in hierarchies() {
        let own = hierarchy.join(name);
        fs::create_dir_all(&own)?;
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let value = hierarchy.join(file);
            if value.exists() {
                fs::write(own.join(file), fs::read_to_string(value)?.trim())?;
            }
        }
        let controllers =
            fs::read_to_string(hierarchy.join("cgroup.controllers")).unwrap_or_default();
        for controller in controllers.split_whitespace() {
            for group in [&hierarchy, &own] {
                let control = group.join("cgroup.subtree_control");
                fs::write(control, format!("+{controller}"))?;
            }
        }
    }
    Ok(())
}

/// Removes it again with all that is in it.
pub fn remove(name: &str) {
    for hierarchy in hierarchies() {
        remove_group(&hierarchy.join(name));
    }
}

/// The innermost first; a process that is still ending keeps its own for a moment.
fn remove_group(path: &Path) {
    let Ok(entries) = fs::read_dir(path) else {
        return;
    };
    for entry in entries.flatten() {
        if entry.path().is_dir() {
            remove_group(&entry.path());
        }
    }
    let deadline = Instant::now() + Duration::from_secs(5);
    while fs::remove_dir(path).is_err() && path.exists() && Instant::now() < deadline {
        thread::sleep(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_mounted_hierarchies_count() {
        let memory = "cgroup /sys/fs/cgroup/memory cgroup rw,relatime,memory 0 0";
        assert_eq!(hierarchy(memory), Some("/sys/fs/cgroup/memory".into()));
        let second = "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0";
        assert_eq!(hierarchy(second), Some("/sys/fs/cgroup".into()));
        assert_eq!(hierarchy("tmpfs /sys/fs/cgroup tmpfs rw 0 0"), None);
        assert_eq!(hierarchy("cgroup /tmp/x/memory cgroup rw 0 0"), None);
    }
}
