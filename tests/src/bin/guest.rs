//! Process 1 of a guest of `cargo xtask kernels`: loads modules, runs tests one by one, reports on the console, powers off.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    os::{
        fd::AsRawFd as _,
        unix::{fs::OpenOptionsExt as _, process::CommandExt as _},
    },
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use gregor_tests::lab::{
    SKIPPED_FILE,
    guest::{MARK, Outcome, PLAN, Plan, RECORDS_FILE, Record, Step, Test},
};
use nix::{
    mount::{MsFlags, mount},
    sys::{
        resource::{RLIM_INFINITY, Resource, setrlimit},
        signal::{Signal, killpg},
    },
    unistd::Pid,
};

const RECORDS: &str = "/tmp/records";
const SKIPPED: &str = "/tmp/skipped";
/// What follows the first words of a panic's message is cut off here.
const WHY_MAX: usize = 400;

fn main() {
    if std::process::id() != 1 {
        eprintln!("this is process 1 of a guest of `cargo xtask kernels`");
        std::process::exit(1);
    }
    if let Err(error) = run() {
        eprintln!("guest: {error:#}");
    }
    // SAFETY: no pointers; everything that matters has been written to the console.
    unsafe {
        libc::sync();
        libc::reboot(libc::RB_POWER_OFF);
    }
}

fn run() -> Result<()> {
    set_up()?;
    let plan: Plan = serde_json::from_str(&fs::read_to_string(PLAN)?).context(PLAN)?;
    for module in &plan.modules {
        if let Err(error) = load_module(Path::new(module)) {
            eprintln!("guest: module {module}: {error}");
        }
    }
    emit(&Record::Booted {
        release: fs::read_to_string("/proc/sys/kernel/osrelease")?
            .trim()
            .to_owned(),
        processors: thread::available_parallelism()?.get(),
    });
    let log = KernelLog::open();
    log.report_defects("booting");
    for step in &plan.steps {
        run_step(step, &plan, &log).with_context(|| step.program.clone())?;
    }
    emit(&Record::Done);
    Ok(())
}

/// What an ordinary system has by the time that it runs programs.
fn set_up() -> Result<()> {
    const NONE: Option<&str> = None;
    for (kind, at) in [
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("devtmpfs", "/dev"),
        ("tmpfs", "/tmp"),
        ("tmpfs", "/run"),
        ("bpf", "/sys/fs/bpf"),
    ] {
        mount(Some(kind), at, Some(kind), MsFlags::empty(), NONE)
            .with_context(|| format!("mounting {at}"))?;
    }
    // Where the kernel has them.
    for (kind, at) in [
        ("securityfs", "/sys/kernel/security"),
        ("selinuxfs", "/sys/fs/selinux"),
    ] {
        if Path::new(at).is_dir() {
            mount(Some(kind), at, Some(kind), MsFlags::empty(), NONE)
                .with_context(|| format!("mounting {at}"))?;
        }
    }
    mount_cgroups();
    fs::create_dir_all("/run/netns")?;
    // Before 5.11, maps count as locked memory. A service manager raises this for gregor, and so does its manifest.
    setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY)?;
    Ok(())
}

/// Version 2 as systemd mounts it, with memory counted; tests say where it is not.
fn mount_cgroups() {
    let at = "/sys/fs/cgroup";
    let mounted = mount(
        Some("cgroup2"),
        at,
        Some("cgroup2"),
        MsFlags::empty(),
        None::<&str>,
    );
    let counted = mounted
        .map_err(io::Error::from)
        .and_then(|()| fs::write(Path::new(at).join("cgroup.subtree_control"), "+memory"));
    if let Err(error) = counted {
        eprintln!("guest: no memory in cgroup v2: {error}");
    }
}

fn load_module(path: &Path) -> io::Result<()> {
    let file = fs::File::open(path)?;
    // SAFETY: an open file, an empty string that ends with a NUL, and no flags.
    let result = unsafe {
        libc::syscall(
            libc::SYS_finit_module,
            file.as_raw_fd(),
            c"".as_ptr(),
            0 as libc::c_int,
        )
    };
    let error = io::Error::last_os_error();
    if result == 0 || error.raw_os_error() == Some(libc::EEXIST) {
        return Ok(());
    }
    Err(error)
}

/// On a line of its own, also where another program has left one unfinished.
fn emit(record: &Record) {
    if let Ok(text) = serde_json::to_string(record) {
        println!("\n{MARK}{text}");
        let _ = io::stdout().flush();
    }
}

fn run_step(step: &Step, plan: &Plan, log: &KernelLog) -> Result<()> {
    let names = if step.tests.is_empty() {
        list(&step.program)?
    } else {
        step.tests.clone()
    };
    for name in names {
        let started = Instant::now();
        let (outcome, why) = run_test(step, plan, &name)?;
        for line in fs::read_to_string(RECORDS).unwrap_or_default().lines() {
            emit(&serde_json::from_str(line).context("a record of a test")?);
        }
        log.report_defects(&name);
        emit(&Record::Test(Test {
            group: step.group.clone(),
            program: step
                .program
                .rsplit('/')
                .next()
                .unwrap_or_default()
                .to_owned(),
            name,
            outcome,
            why,
            seconds: started.elapsed().as_secs_f64(),
        }));
    }
    Ok(())
}

/// The names of a libtest program's tests.
fn list(program: &str) -> Result<Vec<String>> {
    let output = Command::new(program)
        .args(["--list", "--format", "terse"])
        .output()?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| line.strip_suffix(": test").map(str::to_owned))
        .collect())
}

fn run_test(step: &Step, plan: &Plan, name: &str) -> Result<(Outcome, String)> {
    for file in [RECORDS, SKIPPED] {
        let _ = fs::remove_file(file);
    }
    let mut command = Command::new(&step.program);
    command
        .args(["--exact", name, "--test-threads=1"])
        .env(RECORDS_FILE, RECORDS)
        .env(SKIPPED_FILE, SKIPPED)
        .envs(plan.environment.iter().cloned())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    let mut child = command.spawn()?;
    let (send, output) = mpsc::channel();
    for pipe in [
        child
            .stdout
            .take()
            .map(|p| Box::new(p) as Box<dyn io::Read + Send>),
        child
            .stderr
            .take()
            .map(|p| Box::new(p) as Box<dyn io::Read + Send>),
    ]
    .into_iter()
    .flatten()
    {
        let send = send.clone();
        thread::spawn(move || copy(pipe, &send));
    }
    drop(send);
    let status = wait(&mut child, Duration::from_secs(step.limit_seconds))?;
    // What a test leaves running is killed with it, and closes the pipes.
    let _ = killpg(Pid::from_raw(child.id() as i32), Signal::SIGKILL);
    let text: String = output.iter().collect();
    let Some(status) = status else {
        return Ok((
            Outcome::Failed,
            format!("not done within {} s", step.limit_seconds),
        ));
    };
    if !status.success() {
        return Ok((Outcome::Failed, reason(&text, status)));
    }
    // A name that the program does not have passes too.
    if !text.contains("1 passed") {
        return Ok((Outcome::Failed, "no such test".to_owned()));
    }
    Ok(match fs::read_to_string(SKIPPED) {
        Ok(why) => (
            Outcome::Skipped,
            why.trim()
                .split_once(": ")
                .map_or(why.trim(), |(_, why)| why)
                .to_owned(),
        ),
        Err(_) => (Outcome::Passed, String::new()),
    })
}

/// Copies to the console what arrives, and hands it over.
fn copy(mut pipe: Box<dyn io::Read + Send>, to: &mpsc::Sender<String>) {
    let mut buffer = [0; 8192];
    while let Ok(length @ 1..) = pipe.read(&mut buffer) {
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        print!("{text}");
        let _ = io::stdout().flush();
        let _ = to.send(text);
    }
}

fn wait(child: &mut Child, limit: Duration) -> io::Result<Option<ExitStatus>> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// The message of the first panic, in one line.
fn reason(output: &str, status: ExitStatus) -> String {
    let mut lines = output.lines().map(str::trim);
    let message: Vec<&str> = match lines.find(|line| line.contains(" panicked at ")) {
        Some(_) => lines
            .take_while(|line| {
                !line.starts_with("note: run with")
                    && !line.starts_with("stack backtrace")
                    && !line.contains(" panicked at ")
            })
            .filter(|line| !line.is_empty())
            .collect(),
        None => Vec::new(),
    };
    if message.is_empty() {
        return format!("the test ended with {status}");
    }
    message.join(" | ").chars().take(WHY_MAX).collect()
}

/// The kernel's own log.
struct KernelLog(Option<fs::File>);

impl KernelLog {
    /// From its beginning.
    fn open() -> Self {
        let file = fs::OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open("/dev/kmsg");
        if let Err(error) = &file {
            emit(&Record::Kernel {
                line: format!("/dev/kmsg: {error}"),
            });
        }
        Self(file.ok())
    }

    /// Reports new lines about a defect of the kernel's own, or of something that should not have been possible.
    fn report_defects(&self, after: &str) {
        const BAD: [&str; 7] = [
            "BUG:",
            "WARNING:",
            "Oops",
            "verifier bug",
            "self-detected stall",
            "general protection",
            "INVARIANTS VIOLATION",
        ];
        let Some(mut file) = self.0.as_ref() else {
            return;
        };
        let mut buffer = [0; 8192];
        // One message a read, until there is none.
        while let Ok(length @ 1..) = file.read(&mut buffer) {
            let message = String::from_utf8_lossy(&buffer[..length]).into_owned();
            let text = message.split_once(';').map_or("", |(_, text)| text);
            let line = text.lines().next().unwrap_or_default();
            if BAD.iter().any(|bad| line.contains(bad)) {
                emit(&Record::Kernel {
                    line: format!("{line} ({after})"),
                });
            }
        }
    }
}
