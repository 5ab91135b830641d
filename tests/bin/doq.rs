//! Looks a name up over QUIC (RFC 9250), as resolvers that encrypt do: a client that no distribution has.
//!
//! `blackstart-doq ADDRESS SERVER NAME`: asks the server of that name at that address (`ADDRESS:PORT` for another port than 853)
//! for the IPv4 addresses of NAME, and prints them. It trusts the authorities in the file that SSL_CERT_FILE names.
#![forbid(unsafe_code)]

use std::error::Error;
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use hickory_net::proto::op::{DnsRequest, DnsRequestOptions, Message, Query};
use hickory_net::proto::rr::{Name, RecordType};
use hickory_net::quic::QuicClientStream;
use hickory_net::xfer::{DnsRequestSender as _, FirstAnswer as _};
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, server, name] = &arguments[..] else {
        eprintln!("blackstart-doq: an address, a server's name and a name are needed");
        return ExitCode::from(2);
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("start a runtime");
    match runtime.block_on(ask(address, server, name)) {
        Ok(found) => {
            println!("{found}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("failed");
            eprintln!("blackstart-doq: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn ask(address: &str, server: &str, name: &str) -> Result<String, Box<dyn Error>> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(std::env::var("SSL_CERT_FILE")?)? {
        roots.add(certificate?)?;
    }
    let config = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let address = match address.parse::<IpAddr>() {
        Ok(address) => SocketAddr::new(address, 853),
        Err(_) => address.parse()?,
    };
    let mut stream = QuicClientStream::builder()
        .crypto_config(config)
        .request_timeout(Duration::from_secs(5))
        .build(address, Arc::from(server))
        .await?;
    let mut message = Message::query();
    message.add_query(Query::query(Name::from_ascii(name)?, RecordType::A));
    let request = DnsRequest::new(message, DnsRequestOptions::default());
    let response = stream.send_message(request).first_answer().await?;
    let found: Vec<String> = response
        .answers
        .iter()
        .map(|record| record.data.to_string())
        .collect();
    Ok(found.join(" "))
}
