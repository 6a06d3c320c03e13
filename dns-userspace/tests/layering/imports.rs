//! Reads which file of a crate imports which, from the paths in its sources.
//!
//! A path counts for the file that defines the item: `pub use` in a `mod.rs` is followed to its end and is no import itself.
//! Items and files under `#[cfg(test)]` do not count.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    path::{Path, PathBuf},
};

use regex::Regex;
use syn::{Attribute, Item, UseTree, Visibility, visit::Visit};

/// Most `pub use` that one path leads through.
const MAX_HOPS: usize = 16;

/// Files and the imports between them, by path below the crate's `src`.
#[derive(Debug, Default)]
pub struct Imports {
    /// Each file, with the files that it imports and one name taken from each.
    pub files: BTreeMap<String, BTreeMap<String, String>>,
    /// Each file, with the paths that lead out of the crate.
    pub external: BTreeMap<String, BTreeSet<String>>,
}

/// One module, inline or with a file of its own.
#[derive(Default)]
struct Module {
    file: String,
    parent: Option<usize>,
    names: HashMap<String, Name>,
    /// Paths of `pub use path::*` and `use path::*`.
    globs: Vec<Vec<String>>,
    /// Paths in the module, with whether they count as imports.
    paths: Vec<(Vec<String>, bool)>,
}

#[derive(Clone)]
enum Name {
    Module(usize),
    /// Brought in by `use`.
    Alias(Vec<String>),
    Item,
}

impl Module {
    /// Adds a name. A function may have that of a module beside it, by which paths go on: the module keeps it.
    fn name(&mut self, name: String, meaning: Name) {
        if !matches!(self.names.get(&name), Some(Name::Module(_))) {
            self.names.insert(name, meaning);
        }
    }
}

enum Target {
    Module(usize),
    /// An item that this file defines.
    Item(String),
    External,
}

struct Reader {
    root: PathBuf,
    modules: Vec<Module>,
    macro_path: Regex,
}

impl Imports {
    /// Reads the crate whose root is `lib.rs` in `src`, or `main.rs` where there is no such file.
    pub fn read(src: &Path) -> Imports {
        let mut reader = Reader {
            root: src.to_owned(),
            modules: Vec::new(),
            macro_path: Regex::new(r"[A-Za-z_]\w*(?: ?:: ?[A-Za-z_]\w*)+").unwrap(),
        };
        let root = ["lib.rs", "main.rs"].map(|root| src.join(root));
        let root = root.iter().find(|root| root.exists()).unwrap();
        reader.file(root, None, src);
        let mut imports = Imports::default();
        for (index, module) in reader.modules.iter().enumerate() {
            let files = imports.files.entry(module.file.clone()).or_default();
            let external = imports.external.entry(module.file.clone()).or_default();
            for (path, is_import) in &module.paths {
                match reader.resolve(index, path, MAX_HOPS) {
                    Some(Target::Item(file)) if *is_import && file != module.file => {
                        files.entry(file).or_insert_with(|| path.join("::"));
                    }
                    // A single name that is a module's is a variable: no module is a value.
                    Some(Target::Module(target)) if *is_import && path.len() > 1 => {
                        let file = &reader.modules[target].file;
                        if *file != module.file {
                            files.entry(file.clone()).or_insert_with(|| path.join("::"));
                        }
                    }
                    Some(Target::External) => {
                        external.insert(path.join("::"));
                    }
                    _ => {}
                }
            }
        }
        imports
    }

    /// Files that import each other in a circle, each with the imports that close it.
    ///
    /// A submodule is a part of its parent: what it takes from the file of a module that it is in closes no circle.
    pub fn circles(&self) -> Vec<Vec<String>> {
        let between = |(from, to): (&String, &String)| !is_within(from, to);
        let imported = |file: &String| {
            let to = self.files[file].keys().filter(|to| between((file, *to)));
            (
                file.clone(),
                to.map(|to| (to.clone(), String::new())).collect(),
            )
        };
        let siblings = Imports {
            files: self.files.keys().map(imported).collect(),
            external: BTreeMap::new(),
        };
        let reached: BTreeMap<&str, BTreeSet<&str>> = self
            .files
            .keys()
            .map(|file| (file.as_str(), siblings.reachable([file.as_str()])))
            .collect();
        let mut circles: Vec<Vec<String>> = Vec::new();
        for file in self.files.keys() {
            let members: Vec<String> = reached[file.as_str()]
                .iter()
                .filter(|other| reached[*other].contains(file.as_str()))
                .map(|other| (*other).to_owned())
                .collect();
            if members.first() == Some(file) {
                let ties = members.iter().flat_map(|from| {
                    let imported = self.files[from].iter();
                    imported
                        .filter(|(to, _)| members.contains(to) && between((from, *to)))
                        .map(move |(to, name)| format!("{from} -> {to} ({name})"))
                });
                circles.push(ties.collect());
            }
        }
        circles
    }

    /// Files that these import, directly or through others.
    pub fn reachable<'a>(&'a self, from: impl IntoIterator<Item = &'a str>) -> BTreeSet<&'a str> {
        let mut reached = BTreeSet::new();
        let mut left: Vec<&str> = from.into_iter().collect();
        while let Some(file) = left.pop() {
            for to in self.files[file].keys() {
                if reached.insert(to.as_str()) {
                    left.push(to);
                }
            }
        }
        reached
    }

    /// The files below a folder, or the file of that module.
    pub fn below<'a>(&'a self, folder: &str) -> Vec<&'a str> {
        let (folder, file) = (format!("{folder}/"), format!("{folder}.rs"));
        self.files
            .keys()
            .map(String::as_str)
            .filter(|path| path.starts_with(&folder) || *path == file)
            .collect()
    }
}

impl Reader {
    /// Reads a file as a module; `folder` is where the files of its children are.
    fn file(&mut self, path: &Path, parent: Option<usize>, folder: &Path) -> usize {
        let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        let parsed = syn::parse_file(&text).unwrap_or_else(|error| panic!("{path:?}: {error}"));
        let file = path.strip_prefix(&self.root).unwrap();
        let index = self.modules.len();
        self.modules.push(Module {
            file: file.to_str().unwrap().to_owned(),
            parent,
            ..Module::default()
        });
        self.items(index, &parsed.items, folder);
        index
    }

    fn items(&mut self, index: usize, items: &[Item], folder: &Path) {
        for item in items.iter().filter(|item| !is_test(attributes(item))) {
            match item {
                Item::Mod(module) => {
                    let name = module.ident.to_string();
                    let inner = folder.join(&name);
                    let child = if let Some((_, items)) = &module.content {
                        let child = self.modules.len();
                        self.modules.push(Module {
                            file: self.modules[index].file.clone(),
                            parent: Some(index),
                            ..Module::default()
                        });
                        self.items(child, items, &inner);
                        child
                    } else {
                        let beside = inner.with_extension("rs");
                        let path = if beside.exists() {
                            beside
                        } else {
                            inner.join("mod.rs")
                        };
                        self.file(&path, Some(index), &inner)
                    };
                    self.modules[index].names.insert(name, Name::Module(child));
                }
                Item::Use(item) => {
                    let is_import = matches!(item.vis, Visibility::Inherited);
                    self.uses(index, &item.tree, &mut Vec::new(), is_import);
                }
                item => {
                    for name in defined(item) {
                        self.modules[index].name(name, Name::Item);
                    }
                    let mut found = Found {
                        macro_path: &self.macro_path,
                        paths: Vec::new(),
                    };
                    found.visit_item(item);
                    let paths = found.paths.into_iter().map(|path| (path, true));
                    self.modules[index].paths.extend(paths);
                }
            }
        }
    }

    fn uses(&mut self, index: usize, tree: &UseTree, prefix: &mut Vec<String>, is_import: bool) {
        let (name, alias) = match tree {
            UseTree::Path(path) => {
                prefix.push(path.ident.to_string());
                self.uses(index, &path.tree, prefix, is_import);
                prefix.pop();
                return;
            }
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.uses(index, tree, prefix, is_import);
                }
                return;
            }
            UseTree::Glob(_) => {
                let module = &mut self.modules[index];
                module.globs.push(prefix.clone());
                module.paths.push((prefix.clone(), is_import));
                return;
            }
            UseTree::Name(name) => (name.ident.to_string(), name.ident.to_string()),
            UseTree::Rename(rename) => (rename.ident.to_string(), rename.rename.to_string()),
        };
        let mut path = prefix.clone();
        let mut alias = alias;
        if name != "self" {
            path.push(name);
        } else if alias == "self" {
            alias = path.last().cloned().unwrap_or_default();
        }
        let module = &mut self.modules[index];
        module.name(alias, Name::Alias(path.clone()));
        module.paths.push((path, is_import));
    }

    /// What a path in a module leads to; `None` for a name that is not known, a variable for example.
    fn resolve(&self, from: usize, path: &[String], hops: usize) -> Option<Target> {
        let (first, rest) = path.split_first()?;
        let module = &self.modules[from];
        match first.as_str() {
            "crate" => self.follow(0, rest, hops),
            "self" => self.follow(from, rest, hops),
            "super" => self.follow(module.parent.unwrap_or(0), rest, hops),
            name => match module.names.get(name) {
                Some(Name::Alias(alias)) if alias.first() == Some(first) && alias.len() == 1 => {
                    Some(Target::External)
                }
                Some(_) => self.follow(from, path, hops),
                None if rest.is_empty() => None,
                None => {
                    let known = module.globs.iter().any(|glob| {
                        let target = self.resolve(from, glob, hops.saturating_sub(1));
                        matches!(target, Some(Target::Module(target)) if self.has(target, name))
                    });
                    if known {
                        self.follow(from, path, hops)
                    } else {
                        Some(Target::External)
                    }
                }
            },
        }
    }

    fn has(&self, module: usize, name: &str) -> bool {
        self.modules[module].names.contains_key(name)
    }

    /// Goes on from a module.
    fn follow(&self, from: usize, path: &[String], hops: usize) -> Option<Target> {
        let module = &self.modules[from];
        let Some((first, rest)) = path.split_first() else {
            return Some(Target::Module(from));
        };
        if first == "super" {
            return self.follow(module.parent.unwrap_or(0), rest, hops);
        }
        match module.names.get(first) {
            Some(Name::Module(child)) => self.follow(*child, rest, hops),
            Some(Name::Item) => Some(Target::Item(module.file.clone())),
            Some(Name::Alias(alias)) => {
                let hops = hops.checked_sub(1)?;
                match self.resolve(from, alias, hops)? {
                    Target::Module(target) => self.follow(target, rest, hops),
                    target => Some(target),
                }
            }
            None => {
                let hops = hops.checked_sub(1)?;
                for glob in &module.globs {
                    if let Some(Target::Module(target)) = self.resolve(from, glob, hops)
                        && target != from
                        && self.has(target, first)
                    {
                        return self.follow(target, path, hops);
                    }
                }
                // A macro, or an item that a macro defines.
                Some(Target::Item(module.file.clone()))
            }
        }
    }
}

/// The paths below an item.
struct Found<'a> {
    macro_path: &'a Regex,
    paths: Vec<Vec<String>>,
}

impl<'ast> Visit<'ast> for Found<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        if !is_test(attributes(item)) {
            syn::visit::visit_item(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if !is_test(&item.attrs) {
            syn::visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments = path.segments.iter();
        self.paths
            .push(segments.map(|segment| segment.ident.to_string()).collect());
        syn::visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        let text = item.tokens.to_string();
        for found in self.macro_path.find_iter(&text) {
            let segments = found.as_str().split("::");
            self.paths
                .push(segments.map(|segment| segment.trim().to_owned()).collect());
        }
        syn::visit::visit_macro(self, item);
    }
}

/// Whether a file belongs to a submodule of the module that another file is.
fn is_within(file: &str, parent: &str) -> bool {
    let folder = match parent.strip_suffix(".rs") {
        Some("lib") => String::new(),
        Some(module) => format!("{}/", module.strip_suffix("/mod").unwrap_or(module)),
        None => return false,
    };
    file != parent && file.starts_with(&folder)
}

fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| match &attribute.meta {
        syn::Meta::Path(path) => path.is_ident("test"),
        syn::Meta::List(list) => list.path.is_ident("cfg") && list.tokens.to_string() == "test",
        syn::Meta::NameValue(_) => false,
    })
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Union(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

fn defined(item: &Item) -> Vec<String> {
    let ident = match item {
        Item::Const(item) => &item.ident,
        Item::Enum(item) => &item.ident,
        Item::Fn(item) => &item.sig.ident,
        Item::Static(item) => &item.ident,
        Item::Struct(item) => &item.ident,
        Item::Trait(item) => &item.ident,
        Item::Type(item) => &item.ident,
        Item::Union(item) => &item.ident,
        Item::Macro(item) => return item.ident.iter().map(ToString::to_string).collect(),
        _ => return Vec::new(),
    };
    vec![ident.to_string()]
}
