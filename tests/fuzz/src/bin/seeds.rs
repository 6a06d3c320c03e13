//! Writes inputs of the pipeline target into a directory: the frames of the packet table, and queries for what its
//! tables of answers hold.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
};

use gregor_fuzz::pipeline::{AS_IT_IS, CRAMPED, GSO, REFUSED};
use gregor_tests::packets::{
    build::{name, opt, question, udp_to},
    table,
};

/// `{}` is the capture; the second number chooses the rules.
const NAMES: [(&str, u8); 6] = [
    ("a.{}.svc.cluster.local", 1),
    ("lkc-1.aws.private.kafka.managed.{}.svc.cluster.local", 0),
    ("{}.db.test", 0),
    ("b.svc4.managed.{}.svc.cluster.local", 2),
    ("broker-5.team5.svc.cluster.local", 2),
    ("{}.{}.kafka2.internal.example", 2),
];
const CAPTURES: [&str; 6] = ["foo", "BAR", "a", "over", "gone", "other"];

fn main() -> io::Result<ExitCode> {
    let Some(directory) = env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: fuzz-seeds DIRECTORY");
        return Ok(ExitCode::FAILURE);
    };
    fs::create_dir_all(&directory)?;
    for (index, case) in table::cases().iter().enumerate() {
        let gso = if case.frame.gso_size.is_some() {
            GSO
        } else {
            0
        };
        write(
            &directory,
            &format!("table-{index}"),
            gso,
            &case.frame.bytes,
        )?;
    }
    let options: [Option<Vec<u8>>; 4] = [
        None,
        Some(opt(1232, 0, &[])),
        Some(opt(512, 0, &[(10, &[7; 8])])),
        // Longer than many an answer.
        Some(opt(4096, 0, &[(12, &[0; 200])])),
    ];
    let mut count = 0;
    for (text, rules) in NAMES {
        for capture in CAPTURES {
            let asked = name(&text.replace("{}", capture));
            for qtype in [1, 28, 5, 65, 64, 16] {
                for option in &options {
                    for server in [table::FIRST_V4, table::LAST_V6] {
                        let mut message = question(&asked, qtype);
                        if let Some(option) = option {
                            message = message.additional(option.clone());
                        }
                        let frame = udp_to(server, message.build()).build();
                        for meets in [0, REFUSED, CRAMPED, AS_IT_IS] {
                            count += 1;
                            let name = format!("query-{count}");
                            write(&directory, &name, rules | meets, &frame.bytes)?;
                        }
                    }
                }
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn write(directory: &Path, name: &str, choice: u8, frame: &[u8]) -> io::Result<()> {
    fs::write(directory.join(name), [&[choice], frame].concat())
}
