//! The layering of the crates, read from their sources: who may import whom, and that no files import in a circle.

#![allow(clippy::unwrap_used)] // clippy.toml allows it in test functions only, not in what they call.

mod layering {
    pub mod imports;
}

use std::{
    fs,
    path::{Path, PathBuf},
};

use layering::imports::Imports;

/// Modules that decide: they build and are tested without a kernel.
const DECIDING: [&str; 4] = ["resolve", "inject", "discover", "tcp"];

fn read(src: &str) -> Imports {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(src);
    Imports::read(&src.canonicalize().unwrap())
}

fn userspace() -> Imports {
    read("dns-userspace/src")
}

/// The files among these that name one of the crates, each with the path.
fn users_of<'a>(
    imports: &'a Imports,
    files: impl IntoIterator<Item = &'a str>,
    crates: &[&str],
) -> Vec<String> {
    let mut users = Vec::new();
    for file in files {
        for path in &imports.external[file] {
            if crates.contains(&path.split("::").next().unwrap()) {
                users.push(format!("{file}: {path}"));
            }
        }
    }
    users
}

/// The sources of every crate.
const CRATES: [&str; 11] = [
    "dns-userspace/src",
    "dns-userspace/corefile/src",
    "dns-ebpf/src",
    "dns-ebpf/common/src",
    "dns-ebpf/builder/src",
    "xtask/src",
    "tests/src",
    "tests/ebpf/src",
    "tests/lab/src",
    "tests/bench/src",
    "tests/fuzz/src",
];

#[test]
fn files_of_a_crate_do_not_import_in_a_circle() {
    for src in CRATES {
        let circles = read(src).circles();
        assert!(circles.is_empty(), "{src}: {circles:#?}");
    }
}

/// Modules of dns-common from below: each imports from layers below its own, and nothing beside it.
const LAYERS: [&[&str]; 6] = [
    &["checksum", "key", "verdict", "verifier", "wire", "word"],
    &["abi", "scratch", "seqlock", "ways"],
    &["client", "name", "packet"],
    &["answer", "dfa", "edns"],
    &["churn", "reply"],
    &["pipeline"],
];

#[test]
fn modules_of_dns_common_import_from_layers_below_their_own() {
    let layer = |file: &str| {
        let module = file.split(['/', '.']).next().unwrap();
        let layer = LAYERS.iter().position(|layer| layer.contains(&module));
        (
            layer.unwrap_or_else(|| panic!("{module} is in no layer")),
            module.to_owned(),
        )
    };
    let imports = read("dns-ebpf/common/src");
    let mut wrong = Vec::new();
    for (from, imported) in imports.files.iter().filter(|(file, _)| *file != "lib.rs") {
        for (to, name) in imported {
            let ((above, module), (below, other)) = (layer(from), layer(to));
            if module != other && above <= below {
                wrong.push(format!("{from} -> {to} ({name})"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn model_and_what_it_imports_use_neither_aya_nor_tokio() {
    let imports = userspace();
    let model = imports.below("model");
    assert!(model.len() > 3, "{model:?}");
    let all = imports.reachable(model.clone()).into_iter().chain(model);
    let users = users_of(&imports, all, &["aya", "aya_obj", "aya_log", "tokio"]);
    assert!(users.is_empty(), "{users:#?}");
}

#[test]
fn deciding_modules_reach_neither_the_datapath_nor_aya() {
    let imports = userspace();
    let datapath = imports.below("datapath");
    assert!(datapath.len() > 20, "{datapath:?}");
    for module in DECIDING {
        let files = imports.below(module);
        assert!(files.len() > 2, "{module}: {files:?}");
        let reached = imports.reachable(files.clone());
        let wrong: Vec<_> = datapath
            .iter()
            .filter(|file| reached.contains(*file))
            .collect();
        assert!(wrong.is_empty(), "{module} reaches {wrong:#?}");
        let all = reached.into_iter().chain(files);
        let users = users_of(&imports, all, &["aya", "aya_obj", "aya_log"]);
        assert!(users.is_empty(), "{module}: {users:#?}");
    }
}

/// `no_new_privs` and empty bounding sets rest on it: gregor executes no other program.
#[test]
fn no_file_of_gregor_executes_programs() {
    let imports = userspace();
    let paths = |part: &str| -> Vec<String> {
        let all = imports.external.iter();
        all.flat_map(|(file, paths)| paths.iter().map(move |path| (file, path)))
            .filter(|(_, path)| path.contains(part))
            .map(|(file, path)| format!("{file}: {path}"))
            .collect()
    };
    assert!(!paths("process::ExitCode").is_empty(), "std is not read");
    for part in ["process::Command", "exec", "posix_spawn", "fork"] {
        let users = paths(part);
        assert!(users.is_empty(), "{part}: {users:#?}");
    }
}

/// Files and folders whose code takes the time, random numbers and input as arguments.
const SANS_IO: [&str; 24] = [
    "discover/track",
    "identity/facts",
    "identity/registry",
    "inject/frame",
    "resolve/cache",
    "resolve/chain",
    "resolve/chase",
    "resolve/compose",
    "resolve/engine",
    "resolve/in_flight",
    "resolve/limiter",
    "resolve/query",
    "resolve/upstream/exchange",
    "resolve/upstream/infra",
    "resolve/upstream/question",
    "resolve/upstream/retry",
    "sources/backoff",
    "sources/denials",
    "sources/events",
    "sources/labelled",
    "sources/selector",
    "sources/services",
    "tcp/framing",
    "tcp/relay",
];

#[test]
fn sans_io_files_use_no_sockets_no_clock_and_no_source_of_randomness() {
    let imports = userspace();
    for module in SANS_IO {
        let files = imports.below(module);
        assert!(!files.is_empty(), "{module} is gone");
        let mut wrong = users_of(&imports, files.iter().copied(), &["tokio", "aya", "libc"]);
        for file in files {
            for path in &imports.external[file] {
                let is_io = path.ends_with("::now")
                    || path.starts_with("rand::random")
                    || path.starts_with("rand::rng::")
                    || ["Socket", "Listener", "Stream", "File"]
                        .iter()
                        .any(|end| path.ends_with(end))
                    || ["std::fs", "std::io", "std::thread", "std::env"]
                        .iter()
                        .any(|start| path.starts_with(start));
                if is_io {
                    wrong.push(format!("{file}: {path}"));
                }
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    }
}

/// A crate of these files, removed when dropped.
struct Sample(PathBuf);

impl Sample {
    fn new(name: &str, files: &[(&str, &str)]) -> Sample {
        let root = std::env::temp_dir().join(format!("layering-{name}-{}", std::process::id()));
        for (path, text) in files {
            let path = root.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Sample(root)
    }
}

impl Drop for Sample {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn a_circle_is_found_through_re_exports_inline_paths_and_macros() {
    for (name, back) in [
        ("use", "use crate::a::A; pub struct C(A);"),
        ("renamed", "use crate::a::{self as x}; pub struct C(x::A);"),
        ("inline", "pub struct C(super::super::a::A);"),
        (
            "macro",
            "pub struct C; pub fn f() { println!(\"{:?}\", crate::a::A); }",
        ),
        ("glob", "use crate::a::*; pub struct C(A);"),
    ] {
        let sample = Sample::new(
            name,
            &[
                ("lib.rs", "pub mod a; pub mod b;"),
                (
                    "a.rs",
                    "use crate::b::C; #[derive(Debug)] pub struct A; fn f(_: C) {}",
                ),
                ("b/mod.rs", "mod c; pub use c::C;"),
                ("b/c.rs", back),
            ],
        );
        let circles = Imports::read(&sample.0).circles();
        assert_eq!(circles.len(), 1, "{name}: {circles:?}");
        assert_eq!(circles[0].len(), 2, "{name}: {circles:?}");
        assert!(circles[0][0].starts_with("a.rs -> b/c.rs"), "{circles:?}");
        assert!(circles[0][1].starts_with("b/c.rs -> a.rs"), "{circles:?}");
    }
}

#[test]
fn a_circle_is_found_where_a_function_has_the_name_of_its_module() {
    let sample = Sample::new(
        "function",
        &[
            ("lib.rs", "pub mod a; pub mod b;"),
            ("a.rs", "use crate::b::C; pub struct A; fn f(_: C) {}"),
            ("b/mod.rs", "mod c; pub use c::{C, c};"),
            ("b/c.rs", "use crate::a::A; pub struct C(A); pub fn c() {}"),
        ],
    );
    let circles = Imports::read(&sample.0).circles();
    assert_eq!(circles.len(), 1, "{circles:?}");
}

#[test]
fn tests_re_exports_and_a_parents_declarations_do_not_count_as_imports() {
    let sample = Sample::new(
        "none",
        &[
            ("lib.rs", "pub mod a; pub mod b;"),
            (
                "a.rs",
                "pub struct A; #[cfg(test)] mod tests { use crate::b::B; fn f(_: B) {} }",
            ),
            (
                "b/mod.rs",
                "mod c; pub use c::C; pub struct B; fn f(_: c::C) {} #[cfg(test)] mod tests;",
            ),
            (
                "b/c.rs",
                "use super::B; use crate::a::A; pub struct C(A, B);",
            ),
            ("b/tests.rs", "use super::*;"),
        ],
    );
    let imports = Imports::read(&sample.0);
    assert_eq!(imports.circles(), Vec::<Vec<String>>::new());
    let imported: Vec<&str> = imports.files["b/c.rs"].keys().map(String::as_str).collect();
    assert_eq!(imported, ["a.rs", "b/mod.rs"]);
    assert!(!imports.files.contains_key("b/tests.rs"));
}
