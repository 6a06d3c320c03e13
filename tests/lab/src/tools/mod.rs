//! Programs that the lab and the tests need: found, installed, or built once into a cache outside the source tree.

pub mod apt;
mod progress;

use std::{
    ffi::OsStr,
    fs::{self, File, OpenOptions},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, bail};
use nix::fcntl::{Flock, FlockArg};

pub use progress::{run_quietly, say};

/// The files of a Go program that has dependencies.
struct GoModule {
    main: &'static str,
    manifest: &'static str,
    sums: &'static str,
}

macro_rules! go_module {
    ($directory:literal) => {
        GoModule {
            main: include_str!(concat!("../../../clients/", $directory, "/main.go")),
            manifest: include_str!(concat!("../../../clients/", $directory, "/go.mod")),
            sums: include_str!(concat!("../../../clients/", $directory, "/go.sum")),
        }
    };
}
const COREDNS_VERSION: &str = "v1.14.7";
const HELM_VERSION: &str = "v3.22.0";
/// The newest that anything built here asks for in its go.mod.
const GO_VERSION: &str = "1.26.0";
/// The first Go that fetches a newer one by itself.
const GO_FETCHES_GO: (u32, u32) = (1, 21);

const GETADDRINFO_C: &str = include_str!("../../../clients/getaddrinfo.c");
const COOKIES_RS: &str = include_str!("../../../clients/cookies.rs");
const COOKIES_TOML: &str = r#"
[workspace]

[package]
name = "cookies"
edition = "2024"

[[bin]]
name = "cookies"
path = "main.rs"

[dependencies]
c-ares = { version = "=13.1.0", features = ["vendored", "build-cmake"] }
c-ares-sys = "=13.0.0"
"#;
const CARES_C: &str = include_str!("../../../clients/cares.c");
const LOOKUP_GO: &str = include_str!("../../../clients/lookup.go");
const KAFKA_POM: &str = include_str!("../../../clients/kafka/pom.xml");
const KAFKA_JAVA: &str = include_str!("../../../clients/kafka/Client.java");
const LOOKUP_JAVA: &str = include_str!("../../../clients/Lookup.java");
const BROKER: GoModule = go_module!("broker");
const UNPACK: GoModule = go_module!("unpack");

/// Where built programs are kept: `$XDG_CACHE_HOME/gregor` or `~/.cache/gregor`.
pub fn cache_dir() -> Result<PathBuf> {
    let base = match std::env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty()) {
        Some(path) => PathBuf::from(path),
        None => PathBuf::from(
            std::env::var_os("HOME").context("neither XDG_CACHE_HOME nor HOME is set")?,
        )
        .join(".cache"),
    };
    let directory = base.join("gregor");
    fs::create_dir_all(&directory).with_context(|| format!("creating {}", directory.display()))?;
    Ok(directory)
}

/// The full path of a program on PATH, or in the places where root's programs are.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(program))
        .find(|file| {
            fs::metadata(file)
                .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
        })
}

/// The gregor to test: `GREGOR_BINARY`, or the one that cargo left beside the running test.
pub fn gregor() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("GREGOR_BINARY") {
        return Ok(path.into());
    }
    let own = std::env::current_exe()?;
    own.ancestors()
        .map(|directory| directory.join("gregor"))
        .find(|path| path.is_file())
        .context("no gregor beside this test: run `cargo xtask build`")
}

/// Keeps other processes out of the same piece of work until it is dropped.
pub fn exclusive(what: &str) -> Result<Flock<File>> {
    let path = cache_dir()?.join(format!("{what}.lock"));
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)?;
    let file = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => return Ok(lock),
        Err((file, _)) => file,
    };
    say(&format!(
        "waiting for another process to finish with {what}"
    ));
    Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_, errno)| errno)
        .with_context(|| format!("locking {}", path.display()))
}

/// Installs Debian packages without asking, after refreshing the lists when they are missing or a week old.
pub fn apt_install(packages: &[&str]) -> Result<()> {
    let by_hand = format!(
        "apt-get install --no-install-recommends {}",
        packages.join(" ")
    );
    if find("apt-get").is_none() {
        bail!("this machine has no apt-get: install what `{by_hand}` would");
    }
    if !nix::unistd::geteuid().is_root() {
        bail!("installing packages needs root: run `sudo {by_hand}`");
    }
    let _lock = exclusive("apt")?;
    let apt = || {
        let mut command = Command::new("apt-get");
        // Another package manager may be at work on a fresh machine.
        command.env("DEBIAN_FRONTEND", "noninteractive").args([
            "-y",
            "-o",
            "DPkg::Lock::Timeout=300",
        ]);
        command
    };
    if !package_lists_are_fresh() {
        run_quietly("refreshing the package lists", apt().arg("update"))?;
    }
    let install = |label: &str| {
        run_quietly(
            label,
            apt()
                .args(["install", "--no-install-recommends"])
                .args(packages),
        )
    };
    let label = format!("installing {}", packages.join(" "));
    if install(&label).is_ok() {
        return Ok(());
    }
    // The lists may name versions that the mirror has replaced since.
    run_quietly("refreshing the package lists", apt().arg("update"))?;
    install(&label)
}

fn package_lists_are_fresh() -> bool {
    const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);
    let entries = || {
        fs::read_dir("/var/lib/apt/lists")
            .into_iter()
            .flatten()
            .flatten()
    };
    entries().any(|entry| {
        let is_list = entry.file_name().to_string_lossy().contains("Packages");
        let modified = entry.metadata().and_then(|meta| meta.modified());
        // A list keeps the mirror's date, so the directory's own date says when it was last looked at.
        let looked = fs::metadata("/var/lib/apt/lists").and_then(|meta| meta.modified());
        is_list
            && [modified, looked].into_iter().flatten().any(|time| {
                SystemTime::now()
                    .duration_since(time)
                    .is_ok_and(|age| age < WEEK)
            })
    })
}

/// A program of a Debian package, installed if need be.
fn packaged(program: &str, package: &str) -> Result<PathBuf> {
    if let Some(path) = find(program) {
        return Ok(path);
    }
    apt_install(&[package])?;
    find(program).with_context(|| format!("package {package} brought no {program}"))
}

/// `ip` of iproute2.
pub fn iproute2() -> Result<PathBuf> {
    packaged("ip", "iproute2")
}

pub fn unbound() -> Result<PathBuf> {
    packaged("unbound", "unbound")
}

/// unbound of Debian 13, which can give out DNS cookies; run from its own tree with the libraries there.
pub fn unbound_with_cookies() -> Result<PathBuf> {
    build_once_as(
        "unbound-with-cookies",
        "trixie-1",
        "unbound",
        &|directory| {
            let apt = apt::Apt::open(directory, "amd64", &["trixie", "trixie-security"], true)?;
            let archives = directory.join("packages");
            apt.download_with_dependencies(
                "fetching unbound of Debian 13",
                &["unbound"],
                &archives,
            )?;
            apt::unpack(&archives, &directory.join("tree"))?;
            fs::remove_dir_all(&archives)?;
            launcher(directory, "unbound", "usr/sbin")
        },
    )
}

/// Prometheus of Debian 12, with promtool beside it; run from its own tree with the C library there. Installed, it would start
/// as a service of the machine.
pub fn prometheus() -> Result<PathBuf> {
    build_once_as("prometheus", "bookworm-1", "prometheus", &|directory| {
        let apt = apt::Apt::open(directory, "amd64", &["bookworm", "bookworm-security"], true)?;
        let archives = directory.join("packages");
        let packages = ["prometheus".to_owned(), "libc6".to_owned()];
        apt.download("fetching Prometheus of Debian 12", &packages, &archives)?;
        apt::unpack(&archives, &directory.join("tree"))?;
        fs::remove_dir_all(&archives)?;
        for program in ["promtool", "prometheus"] {
            launcher(directory, program, "usr/bin")?;
        }
        Ok(())
    })
}

/// Starts a program of a tree of packages with the libraries there.
fn launcher(directory: &Path, program: &str, place: &str) -> Result<()> {
    let path = directory.join(program);
    fs::write(
        &path,
        format!(
            // /lib is below /usr from Debian 13 on.
            "#!/bin/sh\ntree=\"$(dirname \"$0\")/tree\"\n\
             test -e \"$tree/lib64\" && root=\"$tree\" || root=\"$tree/usr\"\n\
             exec \"$root/lib64/ld-linux-x86-64.so.2\" --library-path \"$root/lib/x86_64-linux-gnu\" \
             \"$tree/{place}/{program}\" \"$@\"\n"
        ),
    )?;
    Ok(fs::set_permissions(
        &path,
        fs::Permissions::from_mode(0o755),
    )?)
}

/// BIND 9.
pub fn named() -> Result<PathBuf> {
    packaged("named", "bind9")
}

pub fn dnsmasq() -> Result<PathBuf> {
    packaged("dnsmasq", "dnsmasq-base")
}

/// The usual load generator for DNS.
pub fn dnsperf() -> Result<PathBuf> {
    packaged("dnsperf", "dnsperf")
}

pub fn iperf3() -> Result<PathBuf> {
    packaged("iperf3", "iperf3")
}

/// The node-cache binary; there is no package, so it is only looked for.
pub fn node_cache() -> Result<PathBuf> {
    find("node-cache").context(
        "no `node-cache` on PATH: build it from kubernetes/dns, or use `--cache coredns`, which is the same server with NodeLocal's Corefile",
    )
}

/// Whether [`coredns`] would return at once.
pub fn coredns_is_built() -> bool {
    std::env::var_os("GREGOR_COREDNS").is_some()
        || cache_dir().is_ok_and(|cache| {
            cache
                .join(format!("coredns-{COREDNS_VERSION}/coredns"))
                .exists()
        })
}

/// CoreDNS, built once; `GREGOR_COREDNS` names another binary.
pub fn coredns() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("GREGOR_COREDNS").filter(|path| !path.is_empty()) {
        return Ok(path.into());
    }
    build_once("coredns", COREDNS_VERSION, &|directory| {
        let go = go()?;
        let mut command = go.command();
        command
            .args([
                "install",
                &format!("github.com/coredns/coredns@{COREDNS_VERSION}"),
            ])
            .env("GOBIN", directory)
            .env("CGO_ENABLED", "0");
        run_quietly(
            &format!("building CoreDNS {COREDNS_VERSION} (some 5 minutes the first time)"),
            &mut command,
        )
    })
}

/// `getaddrinfo NAME` with musl's resolver, static.
pub fn musl_client() -> Result<PathBuf> {
    build_once("getaddrinfo-musl", &digest(GETADDRINFO_C), &|directory| {
        let compiler = packaged("musl-gcc", "musl-tools")?;
        let source = directory.join("getaddrinfo.c");
        fs::write(&source, GETADDRINFO_C)?;
        run_quietly(
            "building the musl client",
            Command::new(compiler)
                .args(["-std=gnu99", "-static", "-O2", "-Wall", "-o"])
                .arg(directory.join("getaddrinfo-musl"))
                .arg(source),
        )
    })
}

/// `getaddrinfo NAME` with glibc's resolver.
pub fn glibc_client() -> Result<PathBuf> {
    build_once("getaddrinfo-glibc", &digest(GETADDRINFO_C), &|directory| {
        let source = directory.join("getaddrinfo.c");
        fs::write(&source, GETADDRINFO_C)?;
        run_quietly(
            "building the glibc client",
            Command::new(packaged("cc", "gcc")?)
                .args(["-O2", "-Wall", "-o"])
                .arg(directory.join("getaddrinfo-glibc"))
                .arg(source),
        )
    })
}

/// The same with c-ares.
pub fn cares_client() -> Result<PathBuf> {
    build_once("getaddrinfo-cares", &digest(CARES_C), &|directory| {
        if !Path::new("/usr/include/ares.h").exists() {
            apt_install(&["libc-ares-dev"])?;
        }
        let source = directory.join("cares.c");
        fs::write(&source, CARES_C)?;
        run_quietly(
            "building the c-ares client",
            Command::new(packaged("cc", "gcc")?)
                .args(["-O2", "-Wall", "-o"])
                .arg(directory.join("getaddrinfo-cares"))
                .arg(source)
                .arg("-lcares"),
        )
    })
}

/// A resolver of a c-ares that minds DNS cookies, which Debian 12 does not have: built from the sources that its crate brings.
pub fn cookie_client() -> Result<PathBuf> {
    let sources = digest(&[COOKIES_TOML, COOKIES_RS].concat());
    build_once("cookies", &sources, &|directory| {
        packaged("cmake", "cmake")?;
        fs::write(directory.join("Cargo.toml"), COOKIES_TOML)?;
        fs::write(directory.join("main.rs"), COOKIES_RS)?;
        run_quietly(
            "building c-ares and the client with cookies",
            Command::new(env!("CARGO"))
                .args(["build", "--quiet", "--target-dir", "target"])
                .current_dir(directory),
        )?;
        fs::rename(
            directory.join("target/debug/cookies"),
            directory.join("cookies"),
        )?;
        fs::remove_dir_all(directory.join("target"))?;
        Ok(())
    })
}

/// The same with Go; `GODEBUG=netdns=go` or `netdns=cgo` chooses its resolver.
pub fn go_client() -> Result<PathBuf> {
    build_once("lookup-go", &digest(LOOKUP_GO), &|directory| {
        let go = go()?;
        packaged("cc", "gcc")?;
        let source = directory.join("lookup.go");
        fs::write(&source, LOOKUP_GO)?;
        let mut command = go.command();
        command
            .args(["build", "-o"])
            .arg(directory.join("lookup-go"))
            .arg(source)
            .env("CGO_ENABLED", "1")
            .current_dir(directory);
        run_quietly("building the Go client", &mut command)
    })
}

/// The same with a JVM.
pub fn java_client() -> Result<PathBuf> {
    build_once("lookup-java", &digest(LOOKUP_JAVA), &|directory| {
        // With the compiler comes the machine that runs what it makes.
        let compiler = packaged("javac", "default-jdk-headless")?;
        let source = directory.join("Lookup.java");
        fs::write(&source, LOOKUP_JAVA)?;
        run_quietly(
            "building the Java client",
            Command::new(compiler).arg("-d").arg(directory).arg(source),
        )?;
        let launcher = directory.join("lookup-java");
        // Nothing here runs long enough for a JVM's threads to pay.
        fs::write(
            &launcher,
            "#!/bin/sh\nexec java -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -cp \"$(dirname \"$0\")\" Lookup \"$@\"\n",
        )?;
        Ok(fs::set_permissions(
            &launcher,
            fs::Permissions::from_mode(0o755),
        )?)
    })
}

/// Apache Kafka from Maven: runs a class of it, `kafka.Kafka` for a broker, or `Client` of `tests/clients/kafka`.
pub fn kafka() -> Result<PathBuf> {
    let version = digest(&[KAFKA_POM, KAFKA_JAVA].concat());
    build_once("kafka", &version, &|directory| {
        let compiler = packaged("javac", "default-jdk-headless")?;
        let maven = packaged("mvn", "maven")?;
        let (source, libraries) = (directory.join("Client.java"), directory.join("lib"));
        fs::write(directory.join("pom.xml"), KAFKA_POM)?;
        fs::write(&source, KAFKA_JAVA)?;
        let fetch = || {
            run_quietly(
                "fetching Apache Kafka (Maven)",
                Command::new(&maven)
                    .args(["--quiet", "--batch-mode"])
                    .arg("org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies")
                    .arg(format!("-DoutputDirectory={}", libraries.display()))
                    .current_dir(directory),
            )
        };
        // Some sixty files: what one attempt has fetched the next one keeps.
        fetch().or_else(|_| fetch()).or_else(|_| fetch())?;
        let all = format!("{}/*", libraries.display());
        run_quietly(
            "building the Kafka client",
            Command::new(compiler)
                .args(["-cp", &all, "-d"])
                .arg(directory)
                .arg(source),
        )?;
        let launcher = directory.join("kafka");
        fs::write(
            &launcher,
            "#!/bin/sh\nhere=\"$(dirname \"$0\")\"\n\
             exec java -Xmx256m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -cp \"$here:$here/lib/*\" \"$@\"\n",
        )?;
        Ok(fs::set_permissions(
            &launcher,
            fs::Permissions::from_mode(0o755),
        )?)
    })
}

/// A Java runtime with what Kafka's client needs and no more, for images: its directory has `bin/java`.
pub fn java_runtime() -> Result<PathBuf> {
    const MODULES: &str = "java.base,java.logging,java.management,java.naming,java.security.jgss,java.security.sasl,jdk.unsupported";
    let java = build_once_as("java-runtime", "17-1", "runtime/bin/java", &|directory| {
        let jlink = packaged("jlink", "default-jdk-headless")?;
        run_quietly(
            "making a Java runtime",
            Command::new(jlink)
                .args(["--add-modules", MODULES, "--strip-debug", "--compress=1"])
                .args(["--no-header-files", "--no-man-pages", "--output"])
                .arg(directory.join("runtime")),
        )
    })?;
    let directory = java.parent().and_then(Path::parent);
    Ok(directory.context("it is in a directory")?.to_owned())
}

/// librdkafka's command line.
pub fn kcat() -> Result<PathBuf> {
    packaged("kcat", "kcat")
}

pub fn ethtool() -> Result<PathBuf> {
    packaged("ethtool", "ethtool")
}

/// Compiles and loads profiles of AppArmor.
pub fn apparmor_parser() -> Result<PathBuf> {
    packaged("apparmor_parser", "apparmor")
}

/// Compiles policies of SELinux.
pub fn secilc() -> Result<PathBuf> {
    packaged("secilc", "secilc")
}

pub fn nft() -> Result<PathBuf> {
    packaged("nft", "nftables")
}

/// A Kafka cluster with advertised names: see `tests/clients/broker`.
pub fn kafka_broker() -> Result<PathBuf> {
    build_go_module("broker", &BROKER)
}

/// DNS messages as miekg/dns reads them: see `tests/clients/unpack`.
pub fn unpack() -> Result<PathBuf> {
    build_go_module("unpack", &UNPACK)
}

fn build_go_module(name: &str, module: &GoModule) -> Result<PathBuf> {
    let version = digest(&[module.main, module.manifest, module.sums].concat());
    build_once(name, &version, &|directory| {
        let go = go()?;
        for (file, text) in [
            ("main.go", module.main),
            ("go.mod", module.manifest),
            ("go.sum", module.sums),
        ] {
            fs::write(directory.join(file), text)?;
        }
        let mut command = go.command();
        command
            .args(["build", "-o", name])
            .env("CGO_ENABLED", "0")
            .current_dir(directory);
        run_quietly(&format!("building {name} (Go)"), &mut command)
    })
}

/// Whether [`helm`] would return at once.
pub fn helm_is_built() -> bool {
    cache_dir().is_ok_and(|cache| cache.join(format!("helm-{HELM_VERSION}/helm")).exists())
}

/// The package manager of Kubernetes, which renders charts.
pub fn helm() -> Result<PathBuf> {
    build_once("helm", HELM_VERSION, &|directory| {
        let mut command = go_command()?;
        command
            .args([
                "install",
                &format!("helm.sh/helm/v3/cmd/helm@{HELM_VERSION}"),
            ])
            .env("GOBIN", directory)
            .env("CGO_ENABLED", "0");
        run_quietly(
            &format!("building Helm {HELM_VERSION} (some minutes the first time)"),
            &mut command,
        )
    })
}

/// `go`, installed if need be.
pub fn go_command() -> Result<Command> {
    Ok(go()?.command())
}

/// A usable Go.
#[derive(Debug)]
struct Go {
    binary: PathBuf,
    /// Whether it is new enough as it is.
    pinned: bool,
}

impl Go {
    fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        command.env("GOFLAGS", "-buildvcs=false");
        if self.pinned {
            command.env("GOTOOLCHAIN", "local");
        }
        command
    }
}

/// Whether there is a Go of any age.
pub fn has_go() -> bool {
    installed_go().is_some()
}

fn installed_go() -> Option<PathBuf> {
    find("go").or_else(|| {
        let usual = PathBuf::from("/usr/local/go/bin/go");
        usual.exists().then_some(usual)
    })
}

/// Go from PATH or from Debian; for one that is too old to fetch its successor, a newer one is fetched through the module
/// proxy.
fn go() -> Result<Go> {
    let binary = match installed_go() {
        Some(binary) => binary,
        None => packaged("go", "golang-go")?,
    };
    if go_version(&binary)? >= GO_FETCHES_GO {
        return Ok(Go {
            binary,
            pinned: false,
        });
    }
    let fetched = build_once_as("go", GO_VERSION, "toolchain/bin/go", &|directory| {
        fetch_go(&binary, directory)
    })?;
    Ok(Go {
        binary: fetched,
        pinned: true,
    })
}

fn go_version(go: &Path) -> Result<(u32, u32)> {
    let output = Command::new(go)
        .args(["env", "GOVERSION"])
        .current_dir("/")
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut numbers = text
        .trim()
        .trim_start_matches("go")
        .split('.')
        .map_while(|part| part.parse().ok());
    Ok((
        numbers
            .next()
            .with_context(|| format!("`go env GOVERSION` says {text:?}"))?,
        numbers.next().unwrap_or(0),
    ))
}

/// A toolchain is a module too; Go before 1.21 downloads it without knowing what it is, so the execute bits are missing.
fn fetch_go(go: &Path, directory: &Path) -> Result<()> {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => bail!("no Go toolchain is known for {other}: install Go {GO_VERSION} or newer"),
    };
    let module = format!("golang.org/toolchain@v0.0.1-go{GO_VERSION}.linux-{architecture}");
    let modules = directory.join("modules");
    run_quietly(
        &format!("fetching Go {GO_VERSION}"),
        Command::new(go)
            .args(["mod", "download", &module])
            .env("GOMODCACHE", &modules)
            .env("GOFLAGS", "-modcacherw")
            .current_dir(directory),
    )?;
    let toolchain = directory.join("toolchain");
    fs::rename(modules.join(&module), &toolchain)?;
    fs::remove_dir_all(&modules)?;
    for programs in ["bin".to_owned(), format!("pkg/tool/linux_{architecture}")] {
        for entry in fs::read_dir(toolchain.join(programs))? {
            fs::set_permissions(entry?.path(), fs::Permissions::from_mode(0o755))?;
        }
    }
    Ok(())
}

/// `<cache>/<name>-<version>/<name>`, made by `build` if it is not there.
fn build_once(name: &str, version: &str, build: &dyn Fn(&Path) -> Result<()>) -> Result<PathBuf> {
    build_once_as(name, version, name, build)
}

/// The same for a program at another place below the directory.
/// A program that is built once and kept. `build` is given an empty directory to leave it in.
pub fn build_once_as(
    name: &str,
    version: &str,
    program: &str,
    build: &dyn Fn(&Path) -> Result<()>,
) -> Result<PathBuf> {
    let cache = cache_dir()?;
    let directory = cache.join(format!("{name}-{version}"));
    if directory.join(program).exists() {
        return Ok(directory.join(program));
    }
    let _lock = exclusive(name)?;
    if directory.join(program).exists() {
        return Ok(directory.join(program));
    }
    // Built aside and renamed, so that what is there is always whole.
    let partial = cache.join(format!("{name}-{version}.partial"));
    if partial.exists() {
        fs::remove_dir_all(&partial)?;
    }
    fs::create_dir_all(&partial)?;
    build(&partial).with_context(|| format!("building {name}"))?;
    if !partial.join(program).exists() {
        bail!("building {name} left no {program}");
    }
    if directory.exists() {
        fs::remove_dir_all(&directory)?;
    }
    fs::rename(&partial, &directory)?;
    Ok(directory.join(program))
}

fn digest(text: &str) -> String {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

/// Whether a program runs and ends well with these arguments.
pub fn works(program: impl AsRef<OsStr>, arguments: &[&str]) -> bool {
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
