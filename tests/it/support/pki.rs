//! Certificates, keys and signed tokens, made by the very script that the examples tell operators to run.

#![allow(clippy::disallowed_methods, reason = "tests run the script that makes keys")]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::version::TLS12;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// What `config/examples/keys.sh` makes.
pub struct Pki {
    directory: TempDir,
}

impl Pki {
    pub fn make() -> Self {
        let directory = tempfile::tempdir().unwrap();
        make_keys(directory.path());
        Self { directory }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// `[server.tls]` with the server's certificate.
    pub fn tls(&self) -> String {
        let path = |name| self.path(name).display().to_string();
        format!(
            "[server.tls]\ncert = {:?}\nkey = {:?}\nclient_ca = {:?}\n",
            path("server.pem"),
            path("server.key"),
            path("ca.pem")
        )
    }

    /// `[auth.jwt]` with the issuer's key.
    pub fn jwt(&self) -> String {
        format!(
            "[auth.jwt]\nissuer = \"https://login.example\"\naudience = [\"execgate\"]\ntenant_claim = \"tenant\"\nleeway = \"0s\"\njwks = {:?}\n",
            self.path("jwks.json").display().to_string()
        )
    }

    /// A client that trusts our authority, and shows this certificate of ours if any.
    pub fn client(&self, certificate: Option<&str>) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.path("ca.pem")).unwrap()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        match certificate {
            None => builder.with_no_client_auth(),
            Some(name) => builder
                .with_client_auth_cert(
                    vec![CertificateDer::from_pem_file(self.path(&format!("{name}.pem"))).unwrap()],
                    PrivateKeyDer::from_pem_file(self.path(&format!("{name}.key"))).unwrap(),
                )
                .unwrap(),
        }
    }

    /// A client that speaks TLS 1.2 and nothing newer.
    pub fn old_client(&self) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.path("ca.pem")).unwrap()).unwrap();
        ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[&TLS12])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth()
    }

    /// A token of this tenant and subject, good for so long; `more` overrides claims.
    pub fn token(&self, tenant: &str, subject: &str, good_for: Duration, more: Value) -> String {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let mut claims = json!({
            "iss": "https://login.example", "aud": "execgate", "nbf": now - 5, "exp": now + good_for.as_secs(),
            "sub": subject, "tenant": tenant,
        });
        for (name, value) in more.as_object().into_iter().flatten() {
            claims[name] = value.clone();
        }
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some("example".to_owned());
        let key = std::fs::read(self.path("issuer.key")).unwrap();
        encode(&header, &claims, &EncodingKey::from_ed_pem(&key).unwrap()).unwrap()
    }
}

/// Runs the documented command.
pub fn make_keys(directory: &Path) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/examples/keys.sh");
    let made = Command::new("sh").arg(script).arg(directory).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

/// Runs the documented command: for a tenant, a subject, and a group if need be.
pub fn make_token(keys: &Path, whose: &[&str]) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/examples/token.sh");
    let made = Command::new("sh").arg(script).arg(keys).args(whose).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    String::from_utf8(made.stdout).unwrap().trim().to_owned()
}

/// A client without a certificate that trusts this authority.
pub fn client_trusting(authority: &Path) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority).unwrap()).unwrap();
    ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}
