//! Debian packages of other suites and architectures than this machine's, without touching what is installed on it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, bail, ensure};
use gregor_lab::tools::{self, run_quietly};

/// Lists older than this are fetched again.
const FRESH_FOR: Duration = Duration::from_secs(7 * 24 * 3600);
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// An apt with lists and downloads of its own.
pub struct Archive {
    directory: PathBuf,
    architecture: &'static str,
}

impl Archive {
    /// Packages of `suites` for Debian's `architecture`, from the mirror that this machine uses. Where it has one, a
    /// suite's security updates are among them.
    pub fn open(suites: &[&str], architecture: &'static str) -> Result<Self> {
        ensure!(
            tools::find("apt-get").is_some(),
            "this machine has no apt-get to fetch Debian's packages with"
        );
        let directory =
            tools::cache_dir()?.join(format!("apt-{}-{architecture}", suites.join("-")));
        let archive = Self {
            directory,
            architecture,
        };
        for part in [
            "etc/apt.conf.d",
            "etc/preferences.d",
            "lists/partial",
            "cache/archives/partial",
            "packages",
        ] {
            fs::create_dir_all(archive.directory.join(part))?;
        }
        fs::write(archive.directory.join("status"), "")?;
        let sources = archive.directory.join("etc/sources.list");
        let wanted = sources_list(&mirrors()?, suites)?;
        let is_fresh = fs::read_to_string(&sources).is_ok_and(|there| there == wanted)
            && fs::metadata(archive.directory.join("updated"))
                .and_then(|meta| meta.modified())
                .is_ok_and(|at| {
                    SystemTime::now()
                        .duration_since(at)
                        .is_ok_and(|age| age < FRESH_FOR)
                });
        if !is_fresh {
            fs::write(&sources, wanted)?;
            run_quietly(
                &format!("reading the lists of {}", suites.join(", ")),
                archive.apt("apt-get").arg("update"),
            )?;
            fs::write(archive.directory.join("updated"), "")?;
        }
        Ok(archive)
    }

    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let place = |part: &str| self.directory.join(part).display().to_string();
        for (key, value) in [
            ("Dir::Etc", place("etc")),
            ("Dir::Etc::sourceparts", "/nonexistent".to_owned()),
            ("Dir::State", place("")),
            ("Dir::State::lists", place("lists")),
            ("Dir::State::status", place("status")),
            ("Dir::Cache", place("cache")),
            ("APT::Architecture", self.architecture.to_owned()),
            ("APT::Architectures", self.architecture.to_owned()),
            ("APT::Sandbox::User", "root".to_owned()),
            ("Acquire::Languages", "none".to_owned()),
            // Of a snapshot of the mirror.
            ("Acquire::Check-Valid-Until", "false".to_owned()),
        ] {
            command.arg("-o").arg(format!("{key}={value}"));
        }
        command
    }

    /// Names of packages that a regular expression matches, sorted as text.
    pub fn names(&self, pattern: &str) -> Result<Vec<String>> {
        let output = self
            .apt("apt-cache")
            .args(["search", "--names-only", pattern])
            .stdin(Stdio::null())
            .output()
            .context("running apt-cache")?;
        ensure!(output.status.success(), "apt-cache: {}", output.status);
        let mut names: Vec<String> = String::from_utf8_lossy(&output.stdout)
            .lines()
            .filter_map(|line| line.split_whitespace().next().map(str::to_owned))
            .collect();
        names.sort();
        Ok(names)
    }

    /// Unpacks packages into a directory, from which nothing is ever installed.
    pub fn unpack(&self, packages: &[&str], into: &Path) -> Result<()> {
        let downloads = self.directory.join("packages");
        for package in packages {
            run_quietly(
                &format!("fetching {package}"),
                self.apt("apt-get")
                    .args(["download", package])
                    .current_dir(&downloads),
            )?;
            let prefix = format!("{package}_");
            let file = fs::read_dir(&downloads)?
                .flatten()
                .map(|entry| entry.path())
                .find(|path| {
                    path.file_name()
                        .is_some_and(|name| name.to_string_lossy().starts_with(&prefix))
                })
                .with_context(|| format!("apt-get left no file of {package}"))?;
            let status = Command::new("dpkg-deb")
                .arg("-x")
                .args([&file, into])
                .status()
                .context("running dpkg-deb")?;
            if !status.success() {
                bail!("unpacking {}: {status}", file.display());
            }
            fs::remove_file(file)?;
        }
        Ok(())
    }
}

/// Addresses of the mirrors in this machine's lists: Debian's own, and that of its security updates.
fn mirrors() -> Result<Vec<String>> {
    let output = Command::new("apt-get")
        .args(["indextargets", "--format", "$(REPO_URI) $(ORIGIN)"])
        .stdin(Stdio::null())
        .output()
        .context("running apt-get")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut mirrors: Vec<String> = text
        .lines()
        .filter_map(|line| line.strip_suffix(" Debian").map(str::to_owned))
        .collect();
    mirrors.sort();
    mirrors.dedup();
    if mirrors.is_empty() {
        bail!("none of this machine's package lists is Debian's: run `apt-get update`");
    }
    Ok(mirrors)
}

fn is_security(mirror: &str) -> bool {
    mirror.trim_end_matches('/').ends_with("security")
}

fn sources_list(mirrors: &[String], suites: &[&str]) -> Result<String> {
    let main = mirrors
        .iter()
        .find(|mirror| !is_security(mirror))
        .context("no mirror of Debian's main archive among this machine's package lists")?;
    let security = mirrors.iter().find(|mirror| is_security(mirror));
    let signed = if Path::new(KEYRING).exists() {
        format!("[signed-by={KEYRING}] ")
    } else {
        String::new()
    };
    let mut list = String::new();
    for suite in suites {
        list += &format!("deb {signed}{main} {suite} main\n");
        // The unstable suite has none.
        if let Some(security) = security.filter(|_| *suite != "sid") {
            list += &format!("deb {signed}{security} {suite}-security main\n");
        }
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn security_updates_come_from_their_own_mirror() {
        let mirrors = ["http://a/debian-security/", "http://a/debian/"].map(str::to_owned);
        let list = sources_list(&mirrors, &["trixie", "sid"]).expect("a main mirror");
        let lines: Vec<&str> = list
            .lines()
            .map(|line| line.rsplit("] ").next().unwrap_or(line))
            .map(|line| line.trim_start_matches("deb "))
            .collect();
        assert_eq!(
            lines,
            [
                "http://a/debian/ trixie main",
                "http://a/debian-security/ trixie-security main",
                "http://a/debian/ sid main",
            ]
        );
        assert!(sources_list(&mirrors[..1], &["sid"]).is_err());
    }
}
