//! `gregor import corefile`: rules on standard output, everything that differs or is left out on standard error.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::{Args, Subcommand};

use crate::rules::{Budget, corefile};

/// Largest file that is read.
const MAX_FILE: u64 = 4 << 20;

/// Turn another program's configuration into rules
#[derive(Args, Clone, Debug)]
pub struct ImportArgs {
    #[command(subcommand)]
    pub source: ImportSource,
}

#[derive(Subcommand, Clone, Debug)]
pub enum ImportSource {
    /// Turn the `template` blocks and `rewrite name exact` lines of a CoreDNS Corefile into rules
    ///
    /// The file may be a Corefile or a part of one, or have one in it: a ConfigMap as YAML or JSON, a list of them, what
    /// `kubectl describe` prints, Terraform, a chart's template. The rules go to standard output, as `[[rule]]` tables for
    /// the configuration file. What a rule says differently is a warning on standard error; what it cannot say is left
    /// out, with its line and the reason. The exit status is 0 when everything was imported and 1 when something was left
    /// out or no Corefile was found.
    ///
    /// Rules of several Corefiles can be in one configuration file; of a rule that comes twice, remove one.
    ///
    /// Example: gregor import corefile /etc/coredns/Corefile >> gregor.toml
    /// Example: kubectl -n kube-system get configmap coredns -o yaml | gregor import corefile -
    #[command(verbatim_doc_comment)]
    Corefile {
        /// The file, or `-` for standard input
        file: PathBuf,
    },
}

/// Runs the subcommand; an error when something was left out.
pub fn run(args: ImportArgs) -> anyhow::Result<()> {
    let ImportSource::Corefile { file } = args.source;
    let name = file.display();
    let bytes = read(&file).with_context(|| format!("{name} cannot be read"))?;
    let import = corefile::import(&bytes, &Budget::of_this_process());
    std::io::stdout().write_all(import.to_toml().as_bytes())?;
    let mut errors = std::io::stderr().lock();
    for note in &import.notes {
        writeln!(errors, "{name}:{note}")?;
    }
    if import.rules.is_empty() && import.notes.is_empty() {
        writeln!(errors, "{name}: no `template` and no `rewrite` in it")?;
    }
    match import.left_out() {
        0 => Ok(()),
        1 => bail!("one directive was not imported"),
        count => bail!("{count} directives were not imported"),
    }
}

fn read(file: &std::path::Path) -> anyhow::Result<Vec<u8>> {
    use std::io::Read;

    let mut bytes = Vec::new();
    let source: Box<dyn Read> = if file.as_os_str() == "-" {
        Box::new(std::io::stdin())
    } else {
        Box::new(std::fs::File::open(file)?)
    };
    source.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        bail!("it has more than {MAX_FILE} bytes");
    }
    Ok(bytes)
}
