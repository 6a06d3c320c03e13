//! Prints an error with its causes on one line, and finds the system's error among them.

use std::{error::Error, io};

use aya::{
    maps::MapError,
    programs::{ProgramError, TcError},
};
use nix::errno::Errno;

/// An error with its causes, on one line. A cause whose text is in that of its effect already is left out.
pub fn one_line(error: &(dyn Error + 'static)) -> String {
    let mut text = first_line(&text_of(error));
    let mut cause = error.source();
    while let Some(error) = cause {
        let line = first_line(&text_of(error));
        if !text.contains(&line) {
            text.push_str(": ");
            text.push_str(&line);
        }
        cause = error.source();
    }
    text
}

/// The number of the system's error at the bottom of this one, if there is one.
pub(super) fn os_error(error: &(dyn Error + 'static)) -> Option<i32> {
    let mut error = Some(error);
    while let Some(this) = error {
        if let Some(number) = number_of(this) {
            return Some(number);
        }
        error = this.source();
    }
    None
}

fn text_of(error: &(dyn Error + 'static)) -> String {
    match number_of(error) {
        Some(number) => errno_text(number),
        None => error.to_string(),
    }
}

/// Of an error of the system itself, or of one of aya's that shows nothing else and hides it.
fn number_of(error: &(dyn Error + 'static)) -> Option<i32> {
    let system = if let Some(error) = error.downcast_ref::<io::Error>() {
        error
    } else if let Some(MapError::IoError(error)) = error.downcast_ref() {
        error
    } else if let Some(ProgramError::IOError(error)) = error.downcast_ref() {
        error
    } else {
        let Some(TcError::IoError(error)) = error.downcast_ref() else {
            return None;
        };
        error
    };
    system.raw_os_error()
}

/// Not for userspace by its definition, but that is what bpf(2) returns where no JIT compiles a program.
pub(super) const ENOTSUPP: i32 = 524;

/// `ENOMEM: Out of memory`, for the reader and for the search engine.
pub(super) fn errno_text(number: i32) -> String {
    match Errno::from_raw(number) {
        Errno::UnknownErrno if number == ENOTSUPP => "ENOTSUPP: Not supported".to_owned(),
        Errno::UnknownErrno => format!("error {number}"),
        errno => errno.to_string(),
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}
