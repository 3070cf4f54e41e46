//! How the broker is reached: its address, a proxy on the way, and whom to trust.

use std::sync::Arc;

use super::Reader;
use crate::auth::secret::Secret;
use crate::mqtt::Proxy;

/// How the broker is reached, TLS settings aside.
pub(super) enum BareTransport {
    Tcp { host: String, port: u16 },
    Tls { host: String, port: u16 },
    Ws { url: String },
    Wss { url: String },
}

/// A broker's address, taken apart.
pub(super) struct BrokerUrl {
    pub(super) transport: BareTransport,
    pub(super) username: Option<String>,
    pub(super) password: Option<Secret>,
    /// The address as an operator may see it: no user, no password.
    pub(super) shown: String,
}

/// User or password of a URL.
fn decode(text: &str) -> Result<String, String> {
    let decoded = percent_encoding::percent_decode_str(text).decode_utf8();
    decoded
        .map(std::borrow::Cow::into_owned)
        .map_err(|_| "user or password is not percent-encoded UTF-8".to_owned())
}

/// Takes a broker's address apart. What is wrong with it is said without repeating it: it may hold a password.
pub(super) fn parse_broker_url(text: &str) -> Result<BrokerUrl, String> {
    const RULE: &str = "a broker is given as mqtt://, mqtts://, ws:// or wss://HOST[:PORT][/PATH]";
    // The text is not repeated: it may hold a password.
    let mut url = url::Url::parse(text).map_err(|error| format!("not a URL ({error}); {RULE}"))?;
    let port = match url.scheme() {
        "mqtt" | "tcp" => 1883,
        "mqtts" | "ssl" => 8883,
        "ws" => 80,
        "wss" => 443,
        other => {
            return Err(format!(
                "scheme {other:?} is none of mqtt, mqtts, ws, wss; {RULE}"
            ));
        }
    };
    let host = url
        .host_str()
        .filter(|host| !host.is_empty())
        .ok_or_else(|| format!("no host; {RULE}"))?
        .to_owned();
    let port = url.port().unwrap_or(port);
    let username = Some(decode(url.username())?).filter(|name| !name.is_empty());
    let password = url.password().map(decode).transpose()?.map(Secret::new);
    let cleared = url.set_username("").and_then(|()| url.set_password(None));
    cleared.map_err(|()| format!("no host; {RULE}"))?;
    let is_web = matches!(url.scheme(), "ws" | "wss");
    if !is_web && (!matches!(url.path(), "" | "/") || url.query().is_some()) {
        return Err(format!("{}:// has no path; {RULE}", url.scheme()));
    }
    if host.starts_with('[') && !matches!(url.scheme(), "mqtt" | "tcp") {
        return Err(format!(
            "an IPv6 address works with mqtt:// only: give {host} a name"
        ));
    }
    let shown = if is_web {
        url.to_string()
    } else {
        format!("{}://{host}:{port}", url.scheme())
    };
    let transport = match url.scheme() {
        "mqtt" | "tcp" => BareTransport::Tcp { host, port },
        "mqtts" | "ssl" => BareTransport::Tls { host, port },
        "ws" => BareTransport::Ws {
            url: url.to_string(),
        },
        _ => BareTransport::Wss {
            url: url.to_string(),
        },
    };
    Ok(BrokerUrl {
        transport,
        username,
        password,
        shown,
    })
}

/// Takes a proxy's address apart.
pub(super) fn parse_proxy(text: &str) -> Result<Proxy, String> {
    const RULE: &str = "a proxy is given as http://[USER:PASSWORD@]HOST:PORT";
    let url = url::Url::parse(text).map_err(|error| format!("not a URL ({error}); {RULE}"))?;
    if url.scheme() != "http" {
        return Err(format!("scheme {:?}: {RULE}", url.scheme()));
    }
    let host = url.host_str().ok_or(RULE)?.to_owned();
    let port = url.port_or_known_default().ok_or(RULE)?;
    let credentials = match (decode(url.username())?, url.password()) {
        (user, None) if user.is_empty() => None,
        (user, password) => Some((user, Secret::new(decode(password.unwrap_or_default())?))),
    };
    Ok(Proxy {
        host,
        port,
        credentials,
    })
}

/// The TLS settings, made even if the broker is reached without, so that a faulty file is reported either way.
pub(super) fn read_tls(
    reader: &mut Reader<'_>,
    warnings: &mut Vec<String>,
) -> Option<Arc<rustls::ClientConfig>> {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};

    fn certificates(path: &str) -> Result<Vec<CertificateDer<'static>>, String> {
        let found = CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>)
            .map_err(|error| format!("cannot read {path}: {error}"))?;
        if found.is_empty() {
            Err(format!("{path} holds no certificate"))
        } else {
            Ok(found)
        }
    }
    let mut roots = rustls::RootCertStore::empty();
    match reader.parse("ca-file", certificates) {
        Some(trusted) => {
            for certificate in trusted {
                if let Err(error) = roots.add(certificate) {
                    reader.fail(
                        "ca-file",
                        format!("holds a certificate that cannot be trusted: {error}"),
                    );
                }
            }
        }
        // A bad certificate among the system's is the system's matter: it is left out.
        None => {
            let _ = roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .expect("the provider has TLS 1.2 and 1.3");
    let builder = if reader.switch("tls-insecure") {
        warnings.push("--tls-insecure: the broker's certificate is not checked; whoever is on the way can read and change everything, passwords too".to_owned());
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AcceptAnything(provider)))
    } else {
        builder.with_root_certificates(roots)
    };
    let chain = reader.parse("client-cert", certificates);
    let key = reader.parse("client-key", |path| {
        PrivateKeyDer::from_pem_file(path).map_err(|error| format!("cannot read {path}: {error}"))
    });
    for (one, other) in [("client-cert", "client-key"), ("client-key", "client-cert")] {
        if reader.is_given(one) && !reader.is_given(other) {
            reader.fail(one, format!("needs --{other} beside it"));
        }
    }
    let config = match (chain, key) {
        (Some(chain), Some(key)) => match builder.with_client_auth_cert(chain, key) {
            Ok(config) => config,
            Err(error) => {
                reader.fail("client-cert", format!("does not fit --client-key: {error}"));
                return None;
            }
        },
        _ => builder.with_no_client_auth(),
    };
    Some(Arc::new(config))
}

/// What `--tls-insecure` asks for.
#[derive(Debug)]
struct AcceptAnything(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for AcceptAnything {
    fn verify_server_cert(
        &self,
        _end_entity: &rustls::pki_types::CertificateDer<'_>,
        _intermediates: &[rustls::pki_types::CertificateDer<'_>],
        _server_name: &rustls::pki_types::ServerName<'_>,
        _ocsp_response: &[u8],
        _now: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &rustls::pki_types::CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &rustls::pki_types::CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            cert,
            dss,
            &self.0.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
