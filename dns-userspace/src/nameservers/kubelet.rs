//! Reads `clusterDNS` from the kubelet's configuration, a file and a directory of files that go over it.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use saphyr::{LoadableYamlNode as _, Yaml};

use super::Source;

/// Where kubeadm and most distributions keep it.
pub const CONFIG: &str = "/var/lib/kubelet/config.yaml";

const KEY: &str = "clusterDNS";
/// What the kubelet takes from a directory.
const SUFFIX: &str = "conf";
/// Larger files are not its configuration.
const MAX_FILE: u64 = 1 << 20;

/// The file, which has named none so far.
pub fn source(file: &Path) -> Source {
    Source::silent(format!("{KEY} in {}", file.display()), "not read yet")
}

/// The servers that the kubelet writes into the pods' resolv.conf. As the kubelet does it: files of the directory whose names
/// end in `.conf` go over the file, in the order of their names; a list takes the place of the one before.
pub fn read(file: &Path, directory: Option<&Path>) -> Result<Vec<IpAddr>, String> {
    let mut found = cluster_dns(&text(file)?)?;
    for file in directory.map_or_else(|| Ok(Vec::new()), files)? {
        let over = text(&file)
            .and_then(|text| cluster_dns(&text))
            .map_err(|error| format!("{}: {error}", file.display()))?;
        found = over.or(found);
    }
    found.ok_or_else(|| format!("has no {KEY}"))
}

fn files(directory: &Path) -> Result<Vec<PathBuf>, String> {
    let failed = |error| format!("{}: cannot be read: {error}", directory.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|suffix| suffix == SUFFIX) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn text(file: &Path) -> Result<String, String> {
    let failed = |error| format!("cannot be read: {error}");
    let metadata = fs::metadata(file).map_err(failed)?;
    if !metadata.is_file() || metadata.len() > MAX_FILE {
        return Err("is no file of at most 1 MiB".to_owned());
    }
    fs::read_to_string(file).map_err(failed)
}

/// `None` where the key is not there.
fn cluster_dns(text: &str) -> Result<Option<Vec<IpAddr>>, String> {
    let documents = Yaml::load_from_str(text).map_err(|error| format!("is not YAML: {error}"))?;
    let Some(value) = documents
        .first()
        .and_then(|document| document.as_mapping_get(KEY))
    else {
        return Ok(None);
    };
    if value.is_null() {
        return Ok(None);
    }
    let items = value
        .as_vec()
        .ok_or_else(|| format!("{KEY} is not a list"))?;
    let addresses = items.iter().map(|item| {
        let text = item.as_str().unwrap_or_default();
        text.parse()
            .map_err(|_| format!("{KEY} has `{text}`, which is not an address"))
    });
    addresses.collect::<Result<_, _>>().map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn the_kubelets_list_in_each_of_its_forms() {
        for text in [
            "clusterDNS:\n- 172.20.0.10\n- fd00:20::a\nclusterDomain: cluster.local\n",
            "kind: KubeletConfiguration\nclusterDNS:\n  # both\n  - \"172.20.0.10\"\n  - 'fd00:20::a' # v6\nmaxPods: 3\n",
            "clusterDNS: [172.20.0.10, \"fd00:20::a\"]\n",
            "clusterDNS: [\n  172.20.0.10,\n  \"fd00:20::a\",\n]\n",
            "---\nclusterDNS: # here\n- 172.20.0.10\n\n- fd00:20::a\n",
            "{\"kind\": \"KubeletConfiguration\", \"clusterDNS\": [\"172.20.0.10\", \"fd00:20::a\"], \"maxPods\": 3}",
        ] {
            assert_eq!(
                cluster_dns(text).unwrap().unwrap(),
                ips(&["172.20.0.10", "fd00:20::a"]),
                "{text}"
            );
        }
        for text in [
            "",
            "clusterDomain: x\n",
            "nested:\n  clusterDNS: [10.0.0.1]\n",
            "clusterDNS:\n",
            "- clusterDNS\n",
        ] {
            assert_eq!(cluster_dns(text).unwrap(), None, "{text}");
        }
        assert_eq!(cluster_dns("clusterDNS: []\n").unwrap(), Some(Vec::new()));
    }

    #[test]
    fn what_is_not_a_list_of_addresses_is_an_error_that_says_so() {
        for (text, part) in [
            ("clusterDNS: 10.0.0.1\n", "not a list"),
            (
                "clusterDNS: [kube-dns]\n",
                "`kube-dns`, which is not an address",
            ),
            ("clusterDNS: [1]\n", "not an address"),
            ("a: [", "not YAML"),
        ] {
            let error = cluster_dns(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn files_of_the_directory_go_over_the_file_in_the_order_of_their_names() {
        let directory = std::env::temp_dir().join(format!("gregor-kubelet-{}", std::process::id()));
        fs::create_dir_all(directory.join("more")).unwrap();
        let (file, more) = (directory.join("config.yaml"), directory.join("more"));
        let write = |path: &Path, text: &str| fs::write(path, text).unwrap();
        assert!(read(&file, None).unwrap_err().contains("cannot be read"));
        write(&file, "clusterDNS: [10.0.0.1]\n");
        assert_eq!(read(&file, None).unwrap(), ips(&["10.0.0.1"]));
        assert_eq!(read(&file, Some(&more)).unwrap(), ips(&["10.0.0.1"]));
        write(&more.join("20-b.conf"), "clusterDNS: [10.0.0.3]\n");
        write(&more.join("10-a.conf"), "clusterDNS: [10.0.0.2]\n");
        write(&more.join("30-c.conf"), "maxPods: 3\n");
        write(&more.join("40-d.yaml"), "clusterDNS: [10.0.0.4]\n");
        assert_eq!(read(&file, Some(&more)).unwrap(), ips(&["10.0.0.3"]));
        write(&more.join("50-e.conf"), "clusterDNS: [x]\n");
        let error = read(&file, Some(&more)).unwrap_err();
        assert!(error.contains("50-e.conf"), "{error}");
        let missing = directory.join("none");
        assert!(read(&file, Some(&missing)).unwrap_err().contains("none"));
        assert!(read(&directory, None).unwrap_err().contains("no file"));
        fs::remove_dir_all(&directory).unwrap();
    }
}
