//! Debian's kernel packages, by an apt with lists and a state of its own: the machine's packages are never touched.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, bail};
use gregor_lab::tools::{self, run_quietly, say};

use super::catalogue::Release;

/// Where the archive's kernels come from; those of `-security` have a mirror of their own.
const SUITES: &[&str] = &[
    "bullseye",
    "bullseye-security",
    "bookworm",
    "bookworm-backports",
    "bookworm-security",
    "trixie",
    "trixie-backports",
    "trixie-security",
    "forky",
    "sid",
    "experimental",
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
}

impl Apt {
    /// Fetches the lists if there are none of this week, or if `update` asks for it.
    pub fn open(directory: &Path, architecture: &'static str, update: bool) -> Result<Self> {
        let apt = Self {
            directory: directory.join(format!("apt-{architecture}")),
            architecture,
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
        fs::write(self.directory.join("etc/sources.list"), mirrors.sources())?;
        // A suite that a mirror no longer has is an error of apt's, and the others are there all the same.
        let updated = run_quietly(
            &format!("fetching Debian's package lists ({})", self.architecture),
            self.command("apt-get").arg("update"),
        );
        match updated {
            Err(error) if self.releases().is_ok_and(|releases| releases.is_empty()) => Err(error),
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

    fn output(&self, program: &str, arguments: &[&str]) -> Result<String> {
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

    /// Every kernel of the archive.
    pub fn releases(&self) -> Result<Vec<Release>> {
        let found = self.output("apt-cache", &["pkgnames", "linux-image-"])?;
        Ok(found
            .lines()
            .filter_map(|package| Release::of_package(package.trim(), self.architecture))
            .collect())
    }

    /// The packages that make up a kernel, and whether its modules are among them; `None` when the archive no longer has
    /// its image. From 7.0 on there are several packages, and some stay in the archive longer than the rest.
    pub fn packages_of(&self, release: &Release) -> Result<Option<(Vec<String>, bool)>> {
        let image = format!("linux-image-{}", release.text);
        let mut packages = vec![image.clone()];
        let mut has_modules = true;
        for line in self.output("apt-cache", &["depends", &image])?.lines() {
            let Some(dependency) = line.trim().strip_prefix("Depends: ") else {
                continue;
            };
            // In angle brackets stand packages that do not exist.
            let name = dependency.trim_matches(['<', '>']);
            let exists = name == dependency;
            if !name.ends_with(&release.text) {
                continue;
            }
            if name.starts_with("linux-binary-") && !exists {
                return Ok(None);
            }
            if name.starts_with("linux-modules-") {
                has_modules = exists;
            }
            // linux-base-… is for the hooks of an installation.
            if exists && !name.starts_with("linux-base-") {
                packages.push(name.to_owned());
            }
        }
        Ok(Some((packages, has_modules)))
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
    if tools::find("dpkg-deb").is_none() {
        bail!("this machine has no dpkg-deb (package dpkg)");
    }
    fs::create_dir_all(into)?;
    for entry in fs::read_dir(packages)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            run_quietly(
                &format!("unpacking {name}"),
                Command::new("dpkg-deb").arg("-x").arg(&path).arg(into),
            )?;
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
        Self::in_texts(&texts).context(
            "no mirror of Debian in /etc/apt: the kernels come from there; `--image FILE --modules DIR` takes one of your own",
        )
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
        let names = ["stable", "oldstable", "testing", "unstable"];
        let is_ours = |suite: &str| SUITES.contains(&suite) || names.contains(&suite);
        Some(Self {
            archive: mirror(&|suite| is_ours(suite) && !suite.ends_with("-security"))?,
            security: mirror(&|suite| suite.ends_with("-security")),
        })
    }

    fn sources(&self) -> String {
        SUITES
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
        assert!(
            expected
                .sources()
                .contains("/security bookworm-security main")
        );
        assert_eq!(Mirrors::in_texts(&["deb http://x y main".to_owned()]), None);
    }
}
