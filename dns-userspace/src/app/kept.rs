//! What a process keeps for the next one: pinned, for one that takes over, wherever that runs; and in a file beside the control
//! socket, for one that starts once everything was detached.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::{Serialize, de::DeserializeOwned};

use crate::datapath::State as Pins;

/// See the module.
#[derive(Clone, Debug)]
pub struct Kept {
    /// `None` where nothing is pinned.
    pins: Option<Pins>,
    directory: PathBuf,
    /// By its name, what this process has written last.
    written: Arc<Mutex<BTreeMap<&'static str, Vec<u8>>>>,
}

impl Kept {
    /// `control` is the path of this process's control socket.
    pub fn new(pins: Option<Pins>, control: &Path) -> Self {
        Self {
            pins,
            directory: control.parent().unwrap_or(Path::new(".")).to_owned(),
            written: Arc::default(),
        }
    }

    /// Replaces what is kept by this name. What cannot be written is asked for again by the next process. Only for the process
    /// that owns what is pinned.
    pub fn write(&self, name: &'static str, value: &impl Serialize) {
        let written = serde_json::to_vec(value)
            .map_err(io::Error::other)
            .and_then(|text| {
                if self.written().get(name) == Some(&text) {
                    return Ok(());
                }
                let is_written = replace(&self.file(name), &text);
                self.pin(name, &text)?;
                self.written().insert(name, text);
                is_written
            });
        said(name, written);
    }

    /// Pins everything again, where what was pinned is gone.
    pub fn pin_again(&self) {
        for (name, text) in &*self.written() {
            said(name, self.pin(name, text));
        }
    }

    fn pin(&self, name: &str, text: &[u8]) -> io::Result<()> {
        let pins = self.pins.as_ref();
        pins.map_or(Ok(()), |pins| pins.leave_note(name, text))
    }

    /// A panic elsewhere leaves plain data behind.
    fn written(&self) -> MutexGuard<'_, BTreeMap<&'static str, Vec<u8>>> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the process has left that this one takes over from; `None` where there is nothing that can be read.
    pub fn pinned<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        serde_json::from_slice(&self.pins.as_ref()?.note(name)?).ok()
    }

    /// The same, or else of any earlier process.
    pub fn read<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        self.pinned(name)
            .or_else(|| serde_json::from_slice(&fs::read(self.file(name)).ok()?).ok())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name).with_extension("json")
    }
}

fn said(name: &str, result: io::Result<()>) {
    if let Err(error) = result {
        tracing::debug!(%error, name, "cannot keep this for the next process");
    }
}

/// In one step.
fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let new = path.with_extension("json-new");
    fs::write(&new, text)?;
    fs::rename(&new, path)
}
