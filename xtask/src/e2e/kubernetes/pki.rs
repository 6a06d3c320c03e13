//! The certificates of a cluster, and the users that they identify.

use std::{fs, net::IpAddr, path::Path};

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use serde_json::json;

/// The first address of the Services' network, which is the API server's.
pub const API_SERVICE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 96, 0, 1));

/// A certificate authority that writes into one directory.
pub struct Authority<'a> {
    directory: &'a Path,
    issuer: Issuer<'static, KeyPair>,
    server: String,
}

/// The subject of a certificate.
pub struct Subject<'a> {
    pub name: &'a str,
    pub organisation: Option<&'a str>,
    pub addresses: &'a [IpAddr],
    pub names: &'a [&'a str],
}

impl<'a> Authority<'a> {
    /// Makes the authority, and the key that signs tokens of service accounts.
    pub fn new(directory: &'a Path, server: &str) -> Result<Self> {
        fs::create_dir_all(directory)?;
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name = distinguished_name("gregor-e2e", None);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        fs::write(directory.join("ca.crt"), params.self_signed(&key)?.pem())?;
        fs::write(directory.join("ca.key"), key.serialize_pem())?;
        let tokens = KeyPair::generate()?;
        fs::write(directory.join("sa.key"), tokens.serialize_pem())?;
        fs::write(directory.join("sa.pub"), tokens.public_key_pem())?;
        Ok(Self {
            directory,
            issuer: Issuer::new(params, key),
            server: server.to_owned(),
        })
    }

    /// FILE.crt, FILE.key and FILE.kubeconfig.
    pub fn issue(&self, file: &str, subject: &Subject) -> Result<()> {
        let key = KeyPair::generate()?;
        let names: Vec<String> = subject.names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name = distinguished_name(subject.name, subject.organisation);
        params.subject_alt_names.extend(
            subject
                .addresses
                .iter()
                .map(|&address| SanType::IpAddress(address)),
        );
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ClientAuth,
            ExtendedKeyUsagePurpose::ServerAuth,
        ];
        let certificate = params.signed_by(&key, &self.issuer)?.pem();
        let write = |extension: &str, text: &str| {
            fs::write(self.directory.join(format!("{file}.{extension}")), text)
        };
        write("crt", &certificate)?;
        write("key", &key.serialize_pem())?;
        // JSON is YAML.
        let kubeconfig = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{ "name": "e2e", "cluster": {
                "server": self.server,
                "certificate-authority": self.directory.join("ca.crt"),
            } }],
            "users": [{ "name": file, "user": {
                "client-certificate": self.directory.join(format!("{file}.crt")),
                "client-key": self.directory.join(format!("{file}.key")),
            } }],
            "contexts": [{ "name": "e2e", "context": { "cluster": "e2e", "user": file } }],
            "current-context": "e2e",
        });
        write("kubeconfig", &kubeconfig.to_string())?;
        Ok(())
    }
}

fn distinguished_name(name: &str, organisation: Option<&str>) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    if let Some(organisation) = organisation {
        distinguished.push(DnType::OrganizationName, organisation);
    }
    distinguished.push(DnType::CommonName, name);
    distinguished
}
