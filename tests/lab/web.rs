//! Web servers, and the certificate authority behind those with TLS.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::Request;
use axum::middleware::Next;
use axum::serve::Listener;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::server::TlsStream;
use tower_http::services::ServeDir;

use crate::node::Node;

/// A web server at work.
#[derive(Debug, Clone)]
pub struct Web {
    seen: Arc<Mutex<Vec<String>>>,
    taken: Arc<Mutex<Vec<String>>>,
}

impl Web {
    pub(crate) fn hello(node: &Node, port: u16, tls: Option<TlsAcceptor>) -> Self {
        let body = format!("hello from {}\n", node.name());
        Self::start(
            node,
            port,
            Router::new().fallback(move || std::future::ready(body.clone())),
            tls,
        )
    }

    pub(crate) fn files(node: &Node, port: u16, dir: &Path, tls: Option<TlsAcceptor>) -> Self {
        Self::start(
            node,
            port,
            Router::new().fallback_service(ServeDir::new(dir)),
            tls,
        )
    }

    /// Answers a query for a name that is posted.
    pub(crate) fn names(
        node: &Node,
        port: u16,
        answer: impl Fn(&[u8]) -> Vec<u8> + Clone + Send + Sync + 'static,
        tls: Option<TlsAcceptor>,
    ) -> Self {
        let router = Router::new().fallback(move |query: axum::body::Bytes| {
            let kind = [("content-type", "application/dns-message")];
            std::future::ready((kind, answer(&query)))
        });
        Self::start(node, port, router, tls)
    }

    /// Takes whatever is posted. It answers with these codes, the last one for good; none of them is sent for 0: the
    /// client waits.
    pub(crate) fn sink(node: &Node, port: u16, codes: &[u16], tls: Option<TlsAcceptor>) -> Self {
        let taken = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&taken);
        let codes = Arc::new(Mutex::new(codes.to_vec()));
        let router = Router::new().fallback(move |body: String| {
            let (kept, codes) = (Arc::clone(&kept), Arc::clone(&codes));
            async move {
                let code = {
                    let mut codes = codes.lock().expect("no panic while held");
                    match codes.len() {
                        1 => codes[0],
                        _ => codes.remove(0),
                    }
                };
                if code == 0 {
                    std::future::pending::<()>().await;
                }
                kept.lock().expect("no panic while held").push(body);
                axum::http::StatusCode::from_u16(code).expect("a code of HTTP")
            }
        });
        Self {
            taken,
            ..Self::start(node, port, router, tls)
        }
    }

    fn start(node: &Node, port: u16, router: Router, tls: Option<TlsAcceptor>) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        let router = router.layer(axum::middleware::from_fn(
            move |request: Request, next: Next| {
                let host = request
                    .headers()
                    .get("host")
                    .and_then(|host| host.to_str().ok())
                    .unwrap_or("-");
                log.lock().expect("no panic while held").push(format!(
                    "{} {host}{}",
                    request.method(),
                    request.uri()
                ));
                next.run(request)
            },
        ));
        let listener = node.listen(port);
        node.spawn(async move {
            let listener = TcpListener::from_std(listener).expect("take the listener over");
            let served = match tls {
                None => axum::serve(listener, router).await,
                Some(acceptor) => axum::serve(Tls { listener, acceptor }, router).await,
            };
            served.expect("serve the web");
        });
        Self {
            seen,
            taken: Arc::default(),
        }
    }

    /// What was posted to a sink and answered, in order.
    pub fn taken(&self) -> Vec<String> {
        self.taken.lock().expect("no panic while held").clone()
    }

    /// The same, once there are so many.
    #[track_caller]
    pub fn take(&self, count: usize) -> Vec<String> {
        let began = std::time::Instant::now();
        while self.taken().len() < count {
            assert!(
                began.elapsed() < std::time::Duration::from_secs(60),
                "{count} posts expected, asked for were {:?}",
                self.seen()
            );
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        self.taken()
    }

    /// Every request, in order: `METHOD HOST/PATH`.
    pub fn seen(&self) -> Vec<String> {
        self.seen.lock().expect("no panic while held").clone()
    }
}

/// A listener that gives out connections after their TLS handshake.
struct Tls {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl Listener for Tls {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            let (stream, from) = Listener::accept(&mut self.listener).await;
            // One handshake at a time is enough for a test, and a failed one is the client's affair.
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, from);
            }
        }
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

/// A certificate authority that one world trusts.
#[derive(Clone)]
pub struct Authority(Arc<CertifiedIssuer<'static, KeyPair>>);

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
            .distinguished_name
            .push(DnType::CommonName, "blackstart lab");
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        let key = KeyPair::generate().expect("make the authority's key");
        Self(Arc::new(
            CertifiedIssuer::self_signed(params, key).expect("sign the authority's certificate"),
        ))
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    pub(crate) fn acceptor(&self, names: &[&str]) -> TlsAcceptor {
        TlsAcceptor::from(Arc::new(self.config(names)))
    }

    pub(crate) fn config(&self, names: &[&str]) -> ServerConfig {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let key = KeyPair::generate().expect("make a server's key");
        let certificate = CertificateParams::new(names)
            .and_then(|params| params.signed_by(&key, &self.0))
            .expect("sign a server's certificate");
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("read the server's key back");
        ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .expect("configure TLS")
    }
}
