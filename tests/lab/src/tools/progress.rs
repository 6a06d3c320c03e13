//! Progress of long operations: an elapsed line on a terminal, plain lines elsewhere.

use std::{
    fs::{self, File},
    io::{IsTerminal as _, Write as _, stderr},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::cache_dir;

/// Lines of output to show when a command fails.
const TAIL_LINES: usize = 25;
/// The interval of progress lines in a plain log.
const REMINDER: Duration = Duration::from_secs(60);

/// Prints one line of progress.
pub fn say(line: &str) {
    let _ = writeln!(stderr(), "gregor: {line}");
}

/// Runs a command with its output kept in a file, showing `label` and the time; the end of the output is the error.
pub fn run_quietly(label: &str, command: &mut Command) -> Result<()> {
    let log = cache_dir()?.join(format!("log-{}.txt", std::process::id()));
    let file = File::create(&log)?;
    let terminal = stderr().is_terminal();
    if !terminal {
        say(&format!("{label} …"));
    }
    let started = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(file.try_clone()?)
        .stderr(file)
        .spawn()
        .with_context(|| format!("{label}: running {:?}", command.get_program()))?;
    let mut reminded = started;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        let elapsed = started.elapsed();
        if terminal {
            let mark =
                ['⠋', '⠙', '⠹', '⠸', '⠼', '⠴', '⠦', '⠧'][elapsed.as_millis() as usize / 125 % 8];
            let _ = write!(stderr(), "\r\x1b[K{mark} {label} {} s", elapsed.as_secs());
        } else if reminded.elapsed() > REMINDER {
            reminded = Instant::now();
            say(&format!("{label} … {} s", elapsed.as_secs()));
        }
        // Short at first: most commands are.
        thread::sleep(Duration::from_millis(if elapsed.as_secs() < 1 {
            10
        } else {
            125
        }));
    };
    if terminal {
        let _ = write!(stderr(), "\r\x1b[K");
    }
    let seconds = started.elapsed().as_secs();
    if status.success() {
        say(&format!("{label}: done in {seconds} s"));
        let _ = fs::remove_file(&log);
        return Ok(());
    }
    let output = String::from_utf8_lossy(&fs::read(&log).unwrap_or_default()).into_owned();
    let _ = fs::remove_file(&log);
    let lines: Vec<&str> = output.lines().collect();
    let tail = &lines[lines.len().saturating_sub(TAIL_LINES)..];
    bail!(
        "{label}: failed after {seconds} s ({status})\n{}",
        tail.join("\n")
    )
}
