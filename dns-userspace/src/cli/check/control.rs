//! Whether the control socket can be made: a file beside it is made, and removed again.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    path::Path,
};

use nix::unistd::{AccessFlags, access};

use super::finding::Finding;

pub fn judge(socket: &Path) -> Finding {
    const WHAT: &str = "control socket";
    match try_out(socket) {
        Ok(()) => Finding::ok(WHAT, socket.display().to_string()),
        Err(error) => Finding::error(
            WHAT,
            format!("{} cannot be made: {error}", socket.display()),
            "free space and inodes there, make the directory writable, or give another path with --control",
        ),
    }
}

fn try_out(socket: &Path) -> io::Result<()> {
    let directory = match socket.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if !directory.exists() {
        // `gregor run` makes it.
        let mut above = directory.ancestors();
        let existing = above.find(|path| path.exists()).unwrap_or(Path::new("/"));
        return access(existing, AccessFlags::W_OK | AccessFlags::X_OK).map_err(io::Error::from);
    }
    let path = directory.join(format!(".gregor-check.{}", std::process::id()));
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .open(&path)?;
    let written = file.write_all(b"gregor check\n");
    fs::remove_file(&path)?;
    written
}
