//! The root file system of a guest: a cpio archive in the format that the kernel unpacks ("newc").

use std::{fs, path::Path};

use anyhow::{Context as _, Result};

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const LINK: u32 = 0o120_777;

#[derive(Default)]
pub struct Initramfs {
    bytes: Vec<u8>,
    entries: u32,
}

impl Initramfs {
    /// Parents first.
    pub fn directory(&mut self, path: &str) -> &mut Self {
        self.entry(path, DIRECTORY, &[])
    }

    pub fn link(&mut self, path: &str, target: &str) -> &mut Self {
        self.entry(path, LINK, target.as_bytes())
    }

    pub fn program(&mut self, path: &str, content: &[u8]) -> &mut Self {
        self.entry(path, PROGRAM, content)
    }

    pub fn copy(&mut self, path: &str, from: &Path) -> Result<&mut Self> {
        let content = fs::read(from).with_context(|| format!("reading {}", from.display()))?;
        Ok(self.program(path, &content))
    }

    /// Ends the archive.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) -> &mut Self {
        self.entries += 1;
        self.bytes.extend_from_slice(b"070701");
        let name_len = path.len() as u32 + 1;
        // Inode, mode, owner, group, links, time, size, device, the device that it is, name, checksum.
        let numbers = [
            self.entries,
            mode,
            0,
            0,
            1,
            0,
            content.len() as u32,
            0,
            0,
            0,
            0,
            name_len,
            0,
        ];
        for number in numbers {
            self.bytes
                .extend_from_slice(format!("{number:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend_from_slice(content);
        self.align();
        self
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_aligned_and_ended() {
        let mut root = Initramfs::default();
        root.directory("dev").program("init", b"#!/bin/sh\n");
        let bytes = root.finish();
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.starts_with("07070100000001000041ed"));
        assert_eq!(text.matches("070701").count(), 3);
        // Header of 110 bytes, the name with its end, up to a multiple of 4.
        assert!(text[116..].starts_with("070701"));
        assert!(text.contains("TRAILER!!!"));
    }
}
