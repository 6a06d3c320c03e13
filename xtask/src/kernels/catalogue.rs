//! Which kernels the matrix has, and the package of the archive for each name. It handles names only.

use std::path::Path;

use anyhow::{Result, bail};

use super::plan;

/// A kernel as it is asked for: `6.12-cloud`, `5.10-cloud-oldest`, `newest-cloud`, `6.1-cloud:2`, `6.12-cloud+selinux`, or a
/// package's release.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub name: String,
    which: Which,
    pub processors: u32,
    has_selinux: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Which {
    Series {
        /// `6.12`; the newest of all when there is none.
        series: Option<String>,
        flavour: String,
        oldest: bool,
    },
    Release(String),
}

/// The full matrix: what Debian has of the kernels that nodes run, and two guests with two processors.
const FULL: &[&str] = &[
    "5.10-cloud-oldest",
    "5.10-cloud",
    "5.10-cloud:2",
    "5.10",
    "6.1-cloud",
    "6.1",
    "6.1-rt",
    "6.12-cloud-oldest",
    "6.12-cloud",
    "6.12-cloud:2",
    "6.12",
    "6.12-rt",
    "6.16-cloud",
    "6.18-cloud",
    "7.0-cloud",
    "7.2-cloud",
    "7.3-cloud",
    "newest-cloud",
    "5.10-cloud+selinux",
    "6.12-cloud+selinux",
];
const QUICK: &[&str] = &[
    "5.10-cloud",
    "6.1-cloud",
    "6.12-cloud",
    "newest-cloud",
    "6.12-cloud+selinux",
];
const FULL_ARM: &[&str] = &["6.1-cloud", "6.12-cloud", "6.12-cloud:2"];
const QUICK_ARM: &[&str] = &["6.1-cloud", "6.12-cloud"];

/// The kernels of a run that names none.
pub fn matrix(architecture: super::Architecture, quick: bool) -> Vec<Wanted> {
    let names = match (architecture, quick) {
        (super::Architecture::X86_64, false) => FULL,
        (super::Architecture::X86_64, true) => QUICK,
        (super::Architecture::Aarch64, false) => FULL_ARM,
        (super::Architecture::Aarch64, true) => QUICK_ARM,
    };
    names
        .iter()
        .map(|name| Wanted::parse(name).expect("a name of this file"))
        .collect()
}

impl Wanted {
    pub fn parse(name: &str) -> Result<Self> {
        let (rest, has_selinux) = match name.strip_suffix("+selinux") {
            Some(rest) => (rest, true),
            None => (name, false),
        };
        let (kernel, processors) = match rest.split_once(':') {
            Some((kernel, processors)) => match processors.parse() {
                Ok(processors @ 1..=8) => (kernel, processors),
                _ => bail!("{name}: a number of processors, 1 to 8, must follow the colon"),
            },
            None => (rest, 1),
        };
        let which = if kernel.ends_with("-amd64") || kernel.ends_with("-arm64") {
            Which::Release(kernel.to_owned())
        } else {
            let (rest, oldest) = match kernel.strip_suffix("-oldest") {
                Some(rest) => (rest, true),
                None => (kernel, false),
            };
            let (series, flavour) = rest.split_once('-').unwrap_or((rest, ""));
            let is_series = series.split('.').count() == 2
                && series
                    .split('.')
                    .all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()));
            if !(is_series || series == "newest") || !["", "cloud", "rt"].contains(&flavour) {
                bail!(
                    "{name} names no kernel: try 6.12, 6.12-cloud, 6.12-rt, 6.12-cloud-oldest, newest-cloud, 6.12-cloud:2 (two processors), 6.12-cloud+selinux or a whole release such as 6.1.0-56-cloud-amd64"
                );
            }
            Which::Series {
                series: is_series.then(|| series.to_owned()),
                flavour: flavour.to_owned(),
                oldest,
            }
        };
        Ok(Self {
            name: name.to_owned(),
            which,
            processors,
            has_selinux,
        })
    }

    /// A kernel from files.
    pub fn given(image: &Path, processors: u32) -> Self {
        let name = image
            .file_name()
            .unwrap_or(image.as_os_str())
            .to_string_lossy()
            .into_owned();
        Self {
            which: Which::Release(name.clone()),
            name: if processors == 1 {
                name
            } else {
                format!("{name}:{processors}")
            },
            processors,
            has_selinux: false,
        }
    }

    /// What this guest is booted with, and which steps are for it.
    pub fn boot(&self) -> &'static str {
        if self.has_selinux {
            plan::SELINUX
        } else {
            plan::USUAL
        }
    }

    /// The releases that this may be, the best first.
    pub fn candidates<'a>(&self, releases: &'a [Release]) -> Vec<&'a Release> {
        match &self.which {
            Which::Release(wanted) => releases.iter().filter(|r| r.text == *wanted).collect(),
            Which::Series {
                series,
                flavour,
                oldest,
            } => {
                let mut fitting: Vec<_> = releases
                    .iter()
                    .filter(|release| {
                        series
                            .as_ref()
                            .is_none_or(|series| release.series() == *series)
                            && release.flavour == *flavour
                    })
                    .collect();
                fitting.sort_by(|a, b| a.numbers.cmp(&b.numbers));
                if !*oldest {
                    fitting.reverse();
                }
                fitting
            }
        }
    }
}

/// A kernel of the archive, by the name of its image package.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Release {
    /// `6.12.118+deb13-cloud-amd64`: also the name of its modules' directory.
    pub text: String,
    flavour: String,
    numbers: Vec<u64>,
}

impl Release {
    /// Reads `linux-image-…`; `None` for meta packages, release candidates, debugging symbols and the like.
    pub fn of_package(package: &str, debian_architecture: &str) -> Option<Self> {
        let text = package.strip_prefix("linux-image-")?;
        let rest = text.strip_suffix(debian_architecture)?.strip_suffix('-')?;
        let (version, flavour) = ["cloud", "rt"]
            .iter()
            .find_map(|flavour| Some((rest.strip_suffix(flavour)?.strip_suffix('-')?, *flavour)))
            .unwrap_or((rest, ""));
        let plain = version
            .split(|c: char| !c.is_ascii_alphanumeric())
            .all(|part| {
                let number = part.strip_prefix("deb").unwrap_or(part);
                !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())
            });
        let numbers: Vec<u64> = version
            .split(|c: char| !c.is_ascii_digit())
            .filter_map(|part| part.parse().ok())
            .collect();
        (plain && numbers.len() >= 3).then(|| Self {
            text: text.to_owned(),
            flavour: flavour.to_owned(),
            numbers,
        })
    }

    fn series(&self) -> String {
        format!("{}.{}", self.numbers[0], self.numbers[1])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn releases() -> Vec<Release> {
        [
            "linux-image-5.10.0-32-cloud-amd64",
            "linux-image-5.10.0-46-cloud-amd64",
            "linux-image-5.10.0-46-amd64",
            "linux-image-6.1-amd64",
            "linux-image-6.1.0-0.deb11.52-cloud-amd64",
            "linux-image-6.1.0-56-cloud-amd64",
            "linux-image-6.1.0-56-cloud-amd64-dbg",
            "linux-image-6.12.43+deb12-cloud-amd64",
            "linux-image-6.12.90+deb12.1-cloud-amd64",
            "linux-image-6.12.118+deb13-cloud-amd64",
            "linux-image-6.12.118+deb13-rt-amd64",
            "linux-image-7.3~rc7-cloud-amd64",
            "linux-image-7.2.13+deb14-cloud-amd64",
        ]
        .iter()
        .filter_map(|package| Release::of_package(package, "amd64"))
        .collect()
    }

    #[test]
    fn names_mean_the_newest_or_the_oldest_of_a_series() {
        let releases = releases();
        for (name, expected) in [
            ("5.10-cloud", Some("5.10.0-46-cloud-amd64")),
            ("5.10-cloud-oldest", Some("5.10.0-32-cloud-amd64")),
            ("5.10", Some("5.10.0-46-amd64")),
            ("6.1", None),
            ("6.1-cloud:2", Some("6.1.0-56-cloud-amd64")),
            ("6.1-cloud+selinux", Some("6.1.0-56-cloud-amd64")),
            ("6.12-cloud", Some("6.12.118+deb13-cloud-amd64")),
            ("6.12-cloud-oldest", Some("6.12.43+deb12-cloud-amd64")),
            ("6.12-rt", Some("6.12.118+deb13-rt-amd64")),
            ("newest-cloud", Some("7.2.13+deb14-cloud-amd64")),
            ("5.10.0-32-cloud-amd64", Some("5.10.0-32-cloud-amd64")),
        ] {
            let wanted = Wanted::parse(name).unwrap();
            let found = wanted
                .candidates(&releases)
                .first()
                .map(|r| r.text.as_str());
            assert_eq!(found, expected, "{name}");
        }
    }

    #[test]
    fn names_of_no_kernel_are_refused() {
        for name in [
            "",
            "6",
            "6.1.2",
            "6.1-clod",
            "6.1:0",
            "oldest",
            "6.1-cloud:x",
            "6.1-cloud+",
        ] {
            assert!(Wanted::parse(name).is_err(), "{name}");
        }
    }
}
