//! TLS towards the broker: whom to trust, and the observer's own certificate.
//!
//! Owns reading certificates and keys. The settings are read even if the broker's URL does not ask
//! for TLS, so that a file with a mistake is reported.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem};
use rustls::{
    ClientConfig, ConfigBuilder, DigitallySignedStruct, RootCertStore, SignatureScheme,
    WantsVerifier, client::WantsClientCert,
};

use super::reader::Reader;

/// Why a file with certificates or a key is of no use.
#[derive(Debug, thiserror::Error)]
enum PemError {
    #[error("cannot read {path}: {error}")]
    Unreadable { path: String, error: pem::Error },
    #[error("{0} holds no certificate")]
    NoCertificate(String),
}

const INSECURE: &str = "--tls-insecure: the broker's certificate is not checked; whoever is on the \
    way can read and change everything, passwords too";

/// The TLS settings; `None` after a mistake that leaves none.
pub(super) fn read_tls(reader: &mut Reader<'_>) -> Option<Arc<ClientConfig>> {
    let roots = read_roots(reader);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .expect("the provider has TLS 1.2 and 1.3");
    let builder = if reader.switch("tls-insecure") {
        reader.warn(INSECURE);
        accept_anything(builder, provider)
    } else {
        builder.with_root_certificates(roots)
    };
    read_client_certificate(reader, builder).map(Arc::new)
}

/// The certificates to trust: those of `--ca-file`, or else the system's.
fn read_roots(reader: &mut Reader<'_>) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let Some(trusted) = reader.parse("ca-file", read_certificates) else {
        // The system may hold certificates that cannot be parsed. They are left out.
        let _ = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        return roots;
    };
    for certificate in trusted {
        if let Err(error) = roots.add(certificate) {
            reader.fail(
                "ca-file",
                format!("holds a certificate that cannot be trusted: {error}"),
            );
        }
    }
    roots
}

fn read_certificates(path: &str) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let found = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unreadable(path, error))?;
    if found.is_empty() {
        return Err(PemError::NoCertificate(path.to_owned()));
    }
    Ok(found)
}

fn unreadable(path: &str, error: pem::Error) -> PemError {
    PemError::Unreadable {
        path: path.to_owned(),
        error,
    }
}

/// Adds the certificate that the observer shows to the broker, if one is given.
fn read_client_certificate(
    reader: &mut Reader<'_>,
    builder: ConfigBuilder<ClientConfig, WantsClientCert>,
) -> Option<ClientConfig> {
    let chain = reader.parse("client-cert", read_certificates);
    let key = reader.parse("client-key", |path| {
        PrivateKeyDer::from_pem_file(path).map_err(|error| unreadable(path, error))
    });
    for (one, other) in [("client-cert", "client-key"), ("client-key", "client-cert")] {
        if reader.is_given(one) && !reader.is_given(other) {
            reader.fail(one, format!("needs --{other} beside it"));
        }
    }
    let (Some(chain), Some(key)) = (chain, key) else {
        return Some(builder.with_no_client_auth());
    };
    let config = builder.with_client_auth_cert(chain, key);
    config
        .map_err(|error| reader.fail("client-cert", format!("does not fit --client-key: {error}")))
        .ok()
}

fn accept_anything(
    builder: ConfigBuilder<ClientConfig, WantsVerifier>,
    provider: Arc<CryptoProvider>,
) -> ConfigBuilder<ClientConfig, WantsClientCert> {
    builder
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AcceptAnything(provider)))
}

/// Accepts any certificate (`--tls-insecure`). Signatures are still checked.
#[derive(Debug)]
struct AcceptAnything(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAnything {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, cert, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, cert, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
