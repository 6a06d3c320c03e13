//! An image as a file: an OCI image layout in a tar archive, with the index that `docker load` reads as well.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context as _, Result};
use flate2::Compression;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::layer::{Layer, gzip};

/// The contents of an image.
#[derive(Clone, Debug)]
pub struct Image {
    /// NAME:TAG.
    pub reference: String,
    /// As the OCI calls it.
    pub architecture: &'static str,
    pub layers: Vec<Layer>,
    pub entrypoint: Vec<String>,
    pub command: Vec<String>,
    pub labels: Vec<(&'static str, String)>,
    pub compression: Compression,
}

/// The PATH of its processes.
const PATH: &str = "PATH=/usr/sbin:/usr/bin:/sbin:/bin";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

impl Image {
    /// Writes the file that `ctr images import`, `podman load`, `skopeo copy oci-archive:…` and `docker load` take, and returns
    /// the digest of the manifest: what a registry will call it.
    pub fn write(&self, path: &Path) -> Result<String> {
        let (bytes, digest) = self.archive()?;
        fs::write(path, bytes).with_context(|| format!("writing {}", path.display()))?;
        Ok(digest)
    }

    fn archive(&self) -> Result<(Vec<u8>, String)> {
        let mut blobs = Blobs::default();
        let mut layers = Vec::new();
        let mut diff_ids = Vec::new();
        for layer in &self.layers {
            let tar = layer.tar()?;
            diff_ids.push(digest(&tar));
            layers.push(blobs.add(LAYER, gzip(&tar, self.compression)?));
        }
        let labels: BTreeMap<_, _> = self.labels.iter().cloned().collect();
        let config = blobs.add_json(
            CONFIG,
            &json!({
                "architecture": self.architecture,
                "os": "linux",
                "config": {
                    "Env": [PATH],
                    "Entrypoint": self.entrypoint,
                    "Cmd": self.command,
                    "WorkingDir": "/",
                    "Labels": labels,
                },
                "rootfs": { "type": "layers", "diff_ids": diff_ids },
            }),
        )?;
        let for_docker = json!([{
            "Config": blob_path(&config),
            "RepoTags": [self.reference],
            "Layers": layers.iter().map(blob_path).collect::<Vec<_>>(),
        }]);
        let mut manifest = blobs.add_json(
            MANIFEST,
            &json!({
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "config": config,
                "layers": layers,
                "annotations": labels,
            }),
        )?;
        let digest = manifest["digest"]
            .as_str()
            .context("a descriptor has a digest")?
            .to_owned();
        let tag = self
            .reference
            .rsplit_once(':')
            .map_or("latest", |(_, tag)| tag);
        manifest["platform"] = json!({ "architecture": self.architecture, "os": "linux" });
        manifest["annotations"] = json!({
            // containerd goes by the first, the others by the second.
            "io.containerd.image.name": full_name(&self.reference),
            "org.opencontainers.image.ref.name": tag,
        });
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [manifest] });

        let mut archive = blobs.files;
        archive.file("index.json", 0o644, serde_json::to_vec(&index)?);
        archive.file("manifest.json", 0o644, serde_json::to_vec(&for_docker)?);
        archive.file(
            "oci-layout",
            0o644,
            serde_json::to_vec(&json!({ "imageLayoutVersion": "1.0.0" }))?,
        );
        Ok((archive.tar()?, digest))
    }
}

/// Contents by their digest.
#[derive(Debug, Default)]
struct Blobs {
    files: Layer,
}

impl Blobs {
    /// Returns the descriptor.
    fn add(&mut self, media_type: &str, content: Vec<u8>) -> Value {
        let descriptor = json!({
            "mediaType": media_type,
            "digest": digest(&content),
            "size": content.len(),
        });
        self.files.file(&blob_path(&descriptor), 0o644, content);
        descriptor
    }

    fn add_json(&mut self, media_type: &str, content: &Value) -> Result<Value> {
        Ok(self.add(media_type, serde_json::to_vec(content)?))
    }
}

/// The name with the registry that short ones are taken to be in: containerd keeps images by it.
fn full_name(reference: &str) -> String {
    let (first, rest) = reference.split_once('/').unwrap_or(("", reference));
    if first == "localhost" || first.contains(['.', ':']) {
        reference.to_owned()
    } else if first.is_empty() {
        format!("docker.io/library/{rest}")
    } else {
        format!("docker.io/{reference}")
    }
}

fn digest(content: &[u8]) -> String {
    let hash = Sha256::digest(content);
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

fn blob_path(descriptor: &Value) -> String {
    let digest = descriptor["digest"].as_str().unwrap_or_default();
    format!("blobs/{}", digest.replace(':', "/"))
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn image(content: &[u8]) -> Image {
        let mut layer = Layer::default();
        layer.file("usr/bin/gregor", 0o755, content.to_vec());
        Image {
            reference: "gregor:1".to_owned(),
            architecture: "amd64",
            layers: vec![layer],
            entrypoint: vec!["/usr/bin/gregor".to_owned()],
            command: Vec::new(),
            labels: vec![("b", "2".to_owned()), ("a", "1".to_owned())],
            compression: Compression::best(),
        }
    }

    fn files(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let mut archive = tar::Archive::new(archive);
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().display().to_string();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            (path, content)
        });
        entries.collect()
    }

    #[test]
    fn image_of_the_same_input_has_the_same_bytes() {
        let once = image(b"binary").archive().unwrap();
        let mut again = image(b"binary");
        again.labels.reverse();
        assert_eq!(again.archive().unwrap(), once);
        assert_ne!(image(b"another").archive().unwrap().1, once.1);
    }

    #[test]
    fn short_names_get_their_registry() {
        for (short, full) in [
            ("gregor:1", "docker.io/library/gregor:1"),
            ("dns/gregor:1", "docker.io/dns/gregor:1"),
            ("r.example/gregor:1", "r.example/gregor:1"),
            ("localhost/gregor:1", "localhost/gregor:1"),
            ("r:5000/gregor:1", "r:5000/gregor:1"),
        ] {
            assert_eq!(full_name(short), full);
        }
    }

    #[test]
    fn image_names_each_blob_by_its_digest() {
        let (bytes, manifest_digest) = image(b"binary").archive().unwrap();
        let files = files(&bytes);
        let mut blobs = 0;
        for (path, content) in &files {
            if let Some(hash) = path.strip_prefix("blobs/sha256/")
                && !hash.is_empty()
            {
                assert_eq!(format!("sha256:{hash}"), digest(content));
                blobs += 1;
            }
        }
        assert_eq!(blobs, 3, "a layer, the configuration, the manifest");

        let parse = |path: &str| serde_json::from_slice::<Value>(&files[path]).unwrap();
        let index = parse("index.json");
        assert_eq!(index["manifests"][0]["digest"], manifest_digest);
        let manifest = parse(&blob_path(&index["manifests"][0]));
        let config = parse(&blob_path(&manifest["config"]));
        assert_eq!(config["config"]["Labels"], json!({ "a": "1", "b": "2" }));
        let docker = parse("manifest.json");
        assert_eq!(docker[0]["Layers"][0], blob_path(&manifest["layers"][0]));

        // The identity of a layer is that of its uncompressed archive.
        let layer = &files[&blob_path(&manifest["layers"][0])];
        let mut tar = Vec::new();
        flate2::read::GzDecoder::new(layer.as_slice())
            .read_to_end(&mut tar)
            .unwrap();
        assert_eq!(config["rootfs"]["diff_ids"][0], digest(&tar));
    }
}
