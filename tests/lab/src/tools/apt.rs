//! Packages of other releases of Debian, by an apt with lists and a state of its own: the machine's packages are never touched.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use super::{find, run_quietly, say};
use anyhow::{Context as _, Result, bail};

/// Names that identify Debian's lines of sources.list(5).
const CODENAMES: &[&str] = &[
    "bullseye",
    "bookworm",
    "trixie",
    "forky",
    "sid",
    "experimental",
    "stable",
    "oldstable",
    "testing",
    "unstable",
];
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// How old lists may be before they are fetched again.
const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

/// An apt for one architecture.
#[derive(Debug)]
pub struct Apt {
    directory: PathBuf,
    /// `amd64` or `arm64`.
    architecture: &'static str,
    suites: &'static [&'static str],
}

impl Apt {
    /// Fetches the lists of these suites if there are none of this week, or if `update` asks for it; those of `-security`
    /// have a mirror of their own.
    pub fn open(
        directory: &Path,
        architecture: &'static str,
        suites: &'static [&'static str],
        update: bool,
    ) -> Result<Self> {
        let apt = Self {
            directory: directory.join(format!("apt-{architecture}")),
            architecture,
            suites,
        };
        let fetched = apt.directory.join("fetched");
        let age = fs::metadata(&fetched)
            .and_then(|meta| meta.modified())
            .ok()
            .and_then(|time| SystemTime::now().duration_since(time).ok());
        if update || age.is_none_or(|age| age > WEEK) {
            match apt.update() {
                Ok(()) => fs::write(&fetched, "")?,
                Err(error) if age.is_some() => {
                    say(&format!("{error:#}; the lists of an earlier run will do"));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(apt)
    }

    pub fn architecture(&self) -> &'static str {
        self.architecture
    }

    fn update(&self) -> Result<()> {
        for directory in [
            "state/lists/partial",
            "cache/archives/partial",
            "etc/preferences.d",
        ] {
            fs::create_dir_all(self.directory.join(directory))?;
        }
        fs::write(self.directory.join("state/status"), "")?;
        let mirrors = Mirrors::of_this_machine()?;
        fs::write(
            self.directory.join("etc/sources.list"),
            mirrors.sources(self.suites),
        )?;
        // A suite that a mirror no longer has is an error of apt's, and the others are there all the same.
        let updated = run_quietly(
            &format!("fetching Debian's package lists ({})", self.architecture),
            self.command("apt-get").arg("update"),
        );
        match updated {
            Err(error) if self.output("apt-cache", &["pkgnames"])?.is_empty() => Err(error),
            _ => Ok(()),
        }
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let at = |path: &str| self.directory.join(path).display().to_string();
        for (option, value) in [
            ("Dir::Etc::sourcelist", at("etc/sources.list")),
            ("Dir::Etc::sourceparts", "/nonexistent".to_owned()),
            ("Dir::Etc::preferences", "/nonexistent".to_owned()),
            ("Dir::Etc::preferencesparts", at("etc/preferences.d")),
            ("Dir::State", at("state")),
            ("Dir::State::status", at("state/status")),
            ("Dir::Cache", at("cache")),
            ("Dir::Cache::pkgcache", "pkgcache.bin".to_owned()),
            ("Dir::Cache::srcpkgcache", "srcpkgcache.bin".to_owned()),
            ("APT::Architecture", self.architecture.to_owned()),
            ("APT::Architectures", self.architecture.to_owned()),
            ("APT::Sandbox::User", "root".to_owned()),
            ("APT::Update::Post-Invoke-Success::", "true".to_owned()),
            ("Acquire::Languages", "none".to_owned()),
            // The oldest suites are no longer signed anew.
            ("Acquire::Check-Valid-Until", "false".to_owned()),
            (
                "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled",
                "false".to_owned(),
            ),
        ] {
            command.arg("-o").arg(format!("{option}={value}"));
        }
        command
    }

    /// What a program of apt prints.
    pub fn output(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let output = self
            .command(program)
            .args(arguments)
            .output()
            .with_context(|| format!("running {program}"))?;
        if !output.status.success() {
            bail!(
                "{program} {}: {}",
                arguments.join(" "),
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Downloads packages into a directory.
    pub fn download(&self, label: &str, packages: &[String], into: &Path) -> Result<()> {
        fs::create_dir_all(into)?;
        run_quietly(
            label,
            self.command("apt-get")
                .arg("download")
                .args(packages)
                .current_dir(into),
        )
    }

    /// Downloads packages with everything that they depend on into a directory.
    pub fn download_with_dependencies(
        &self,
        label: &str,
        packages: &[&str],
        into: &Path,
    ) -> Result<()> {
        fs::create_dir_all(into.join("partial"))?;
        run_quietly(
            label,
            self.command("apt-get")
                .arg("-o")
                .arg(format!("Dir::Cache::archives={}", into.display()))
                .args([
                    "install",
                    "--download-only",
                    "--no-install-recommends",
                    "-y",
                ])
                .args(packages),
        )
    }
}

/// Unpacks the packages of a directory into another, without installing anything.
pub fn unpack(packages: &Path, into: &Path) -> Result<()> {
    if find("dpkg-deb").is_none() {
        bail!("this machine has no dpkg-deb (package dpkg)");
    }
    fs::create_dir_all(into)?;
    for entry in fs::read_dir(packages)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            let output = Command::new("dpkg-deb")
                .arg("-x")
                .arg(&path)
                .arg(into)
                .output()
                .context("running dpkg-deb")?;
            if !output.status.success() {
                let error = String::from_utf8_lossy(&output.stderr);
                bail!("unpacking {}: {}", path.display(), error.trim());
            }
        }
    }
    Ok(())
}

/// The mirrors that this machine is configured with.
#[derive(Debug, PartialEq, Eq)]
struct Mirrors {
    archive: String,
    security: Option<String>,
}

impl Mirrors {
    fn of_this_machine() -> Result<Self> {
        let mut texts = Vec::new();
        let parts = fs::read_dir("/etc/apt/sources.list.d")
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path());
        for path in [PathBuf::from("/etc/apt/sources.list")]
            .into_iter()
            .chain(parts)
        {
            if let Ok(text) = fs::read_to_string(&path) {
                texts.push(text);
            }
        }
        Self::in_texts(&texts).context("no mirror of Debian in /etc/apt")
    }

    /// Reads both formats of sources.list(5).
    fn in_texts(texts: &[String]) -> Option<Self> {
        let mut found = Vec::new();
        for text in texts {
            for stanza in text.split("\n\n") {
                let field = |name: &str| {
                    stanza
                        .lines()
                        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
                        .map(str::trim)
                };
                if let (Some(uris), Some(suites)) = (field("URIs"), field("Suites")) {
                    for uri in uris.split_whitespace() {
                        found.extend(suites.split_whitespace().map(|suite| (uri, suite)));
                    }
                }
            }
            for line in text.lines() {
                let Some(rest) = line.trim().strip_prefix("deb ") else {
                    continue;
                };
                // Options in brackets may have spaces.
                let rest = match rest.trim_start().strip_prefix('[') {
                    Some(options) => options.split_once(']').map_or("", |(_, rest)| rest),
                    None => rest,
                };
                let mut words = rest.split_whitespace();
                if let (Some(uri), Some(suite)) = (words.next(), words.next()) {
                    found.push((uri, suite));
                }
            }
        }
        let mirror = |suites: &dyn Fn(&str) -> bool| {
            found
                .iter()
                .find(|(_, suite)| suites(suite))
                .map(|(uri, _)| (*uri).to_owned())
        };
        Some(Self {
            archive: mirror(&|suite| {
                let name = suite.strip_suffix("-backports").unwrap_or(suite);
                CODENAMES.contains(&name)
            })?,
            security: mirror(&|suite| suite.ends_with("-security")),
        })
    }

    fn sources(&self, suites: &[&str]) -> String {
        suites
            .iter()
            .filter_map(|suite| {
                let mirror = if suite.ends_with("-security") {
                    self.security.as_ref()?
                } else {
                    &self.archive
                };
                Some(format!("deb [signed-by={KEYRING}] {mirror} {suite} main\n"))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_are_found_in_both_formats_among_others() {
        let expected = Mirrors {
            archive: "http://mirror.example/debian".to_owned(),
            security: Some("http://mirror.example/security".to_owned()),
        };
        let stanzas = "Types: deb\nURIs: http://other.example\nSuites: nodistro\n\nTypes: deb\n# a note\nURIs: http://mirror.example/debian\nSuites: bookworm bookworm-updates\n\nTypes: deb\nURIs: http://mirror.example/security\nSuites: bookworm-security\n";
        let lines = "deb http://other.example stuff main\ndeb [arch=amd64 signed-by=/x] http://mirror.example/debian trixie main\ndeb http://mirror.example/security trixie-security main\n";
        for text in [stanzas, lines] {
            assert_eq!(
                Mirrors::in_texts(&[text.to_owned()]).as_ref(),
                Some(&expected)
            );
        }
        let sources = expected.sources(&["trixie", "bookworm-security"]);
        assert!(sources.contains("/debian trixie main"));
        assert!(sources.contains("/security bookworm-security main"));
        assert_eq!(Mirrors::in_texts(&["deb http://x y main".to_owned()]), None);
    }
}
