//! TLS towards an agent that listens on the network: whom we believe, and who we are.

use std::fs;
use std::path::{Path, PathBuf};

use tonic::transport::{Certificate, ClientTlsConfig, Identity};

use crate::failure::{Failure, Result};

/// The files, as their flags name them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tls {
    /// Whoever signed the agent's certificate.
    pub(crate) ca: PathBuf,
    /// Our certificate.
    pub(crate) cert: PathBuf,
    /// Its key.
    pub(crate) key: PathBuf,
}

impl Tls {
    /// What a connection to this host is made with.
    pub(super) fn config(&self, host: &str) -> Result<ClientTlsConfig> {
        let cert = read("--tls-cert", &self.cert)?;
        let key = read("--tls-key", &self.key)?;
        Ok(ClientTlsConfig::new()
            .domain_name(host.trim_matches(['[', ']']))
            .ca_certificate(Certificate::from_pem(read("--tls-ca", &self.ca)?))
            .identity(Identity::from_pem(cert, key)))
    }

    /// The next step after an error of the handshake; `None` when it is none that we know.
    pub(super) fn hint(&self, because: &str) -> Option<String> {
        let ca = self.ca.display();
        Some(
            if because.contains("UnknownIssuer") || because.contains("BadSignature") {
                format!("{ca} did not sign its certificate: give --tls-ca the authority that did")
            } else if because.to_lowercase().contains("expired") {
                "give the agent a new certificate (its --tls-cert), or set the clock of this machine"
                .to_owned()
            } else if because.contains("not valid for name") {
                "name the agent in --agent as its certificate does, or give it one for this name"
                    .to_owned()
            } else if because.contains("InvalidContentType") {
                "does the agent serve TLS there? Without it leave out --tls-ca, --tls-cert and --tls-key"
                .to_owned()
            } else {
                return None;
            },
        )
    }
}

fn read(flag: &str, path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|error| {
        Failure::usage(format!("{flag} {}: cannot be read", path.display())).caused_by(error)
    })
}
