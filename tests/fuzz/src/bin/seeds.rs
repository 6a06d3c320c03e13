//! Writes the frames of the packet table as inputs of the pipeline target into a directory.

use std::{env, fs, io, path::PathBuf, process::ExitCode};

use gregor_fuzz::pipeline::GSO;
use gregor_tests::packets::table;

fn main() -> io::Result<ExitCode> {
    let Some(directory) = env::args_os().nth(1).map(PathBuf::from) else {
        eprintln!("usage: fuzz-seeds DIRECTORY");
        return Ok(ExitCode::FAILURE);
    };
    fs::create_dir_all(&directory)?;
    let cases = table::cases();
    for case in &cases {
        let gso = if case.frame.gso_size.is_some() {
            GSO
        } else {
            0
        };
        let input = [&[gso][..], &case.frame.bytes].concat();
        let name: String = case
            .name
            .chars()
            .map(|letter| {
                if letter.is_ascii_alphanumeric() {
                    letter
                } else {
                    '-'
                }
            })
            .collect();
        fs::write(directory.join(name), input)?;
    }
    println!("{} inputs in {}", cases.len(), directory.display());
    Ok(ExitCode::SUCCESS)
}
