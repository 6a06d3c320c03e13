//! What a binary asks of the system that it is started on.

use std::{
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};

/// Functions of glibc that load shared libraries at run time even in a static binary: the name services. `dlopen` is not
/// among them: it comes with `dlsym`, which `std` uses to look for newer system calls, and nothing calls it.
const NAME_SERVICES: [&str; 11] = [
    "getaddrinfo",
    "gethostbyname",
    "gethostbyname2",
    "gethostbyaddr",
    "getnameinfo",
    "getpwnam",
    "getpwuid",
    "getgrnam",
    "getgrgid",
    "getservbyname",
    "getservbyport",
];

/// Fails unless the binary runs on a system with nothing but a kernel.
pub fn ensure_static(binary: &Path) -> Result<()> {
    let said = readelf(binary)?;
    let needs = needs(&said);
    ensure!(
        needs.is_empty(),
        "{} is not static: {}",
        binary.display(),
        needs.join(", ")
    );
    Ok(())
}

fn readelf(binary: &Path) -> Result<String> {
    let output = Command::new("readelf")
        .args(["--wide", "--segments", "--dynamic", "--symbols"])
        .arg(binary)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .context("running readelf, which is in the package binutils")?;
    if !output.status.success() {
        bail!(
            "readelf {}: {}",
            binary.display(),
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What is needed beside the kernel, in readelf's words.
fn needs(said: &str) -> Vec<String> {
    let mut needs = Vec::new();
    let mut has_symbols = false;
    for line in said.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if words.first() == Some(&"INTERP") {
            needs.push("it names a dynamic loader".to_owned());
        }
        if words.get(1) == Some(&"(NEEDED)") {
            needs.push(format!("it needs {}", words.last().unwrap_or(&"a library")));
        }
        // Number, value, size, type, binding, visibility, section, name.
        if let ["FUNC" | "IFUNC", _, _, _, symbol, ..] = words.get(3..).unwrap_or_default() {
            has_symbols = true;
            let name = symbol.split('@').next().unwrap_or(symbol);
            let name = name.strip_suffix("_r").unwrap_or(name);
            if NAME_SERVICES.contains(&name) {
                needs.push(format!("it has {symbol}, which loads libraries"));
            }
        }
    }
    if !has_symbols {
        needs.push("its symbols are stripped, so its calls cannot be checked".to_owned());
    }
    needs
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATIC: &str = "
Program Headers:
  Type           Offset   VirtAddr           PhysAddr           FileSiz  MemSiz   Flg Align
  LOAD           0x000000 0x0000000000000000 0x0000000000000000 0x08d4f8 0x08d4f8 R   0x1000
  DYNAMIC        0x8c0e90 0x00000000008c1e90 0x00000000008c1e90 0x0001a0 0x0001a0 RW  0x8
Symbol table '.symtab' contains 2 entries:
   Num:    Value          Size Type    Bind   Vis      Ndx Name
     1: 0000000000401000    42 FUNC    GLOBAL DEFAULT    7 main
";

    #[test]
    fn static_binary_needs_nothing() {
        assert_eq!(needs(STATIC), Vec::<String>::new());
    }

    #[test]
    fn loader_library_and_name_service_are_named() {
        let said = STATIC.to_owned()
            + "  INTERP         0x000318 0x0000000000000318 0x0000000000000318 0x00001c 0x00001c R   0x1\n"
            + " 0x0000000000000001 (NEEDED)             Shared library: [libc.so.6]\n"
            + "     2: 0000000000401000    42 FUNC    WEAK   DEFAULT    7 getpwnam_r@GLIBC_2.2.5\n";
        assert_eq!(
            needs(&said),
            [
                "it names a dynamic loader",
                "it needs [libc.so.6]",
                "it has getpwnam_r@GLIBC_2.2.5, which loads libraries",
            ]
        );
    }

    #[test]
    fn a_stripped_binary_is_refused() {
        let headers = STATIC.split("Symbol table").next().unwrap_or_default();
        assert_eq!(needs(headers).len(), 1);
    }
}
