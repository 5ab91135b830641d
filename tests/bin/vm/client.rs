//! Clients, as small as they can be: the C library's resolver, one socket, one line about what came of it.

use std::io::{self, Read as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs as _, UdpSocket};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// A resolver that gets no answer tells after this long; nothing here waits longer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Look a name up and print its addresses.
pub(crate) fn lookup(name: &str) -> ExitCode {
    told(|| {
        let found = (name, 0).to_socket_addrs()?;
        let mut addresses: Vec<_> = found.map(|address| address.ip().to_string()).collect();
        addresses.sort();
        addresses.dedup();
        Ok(addresses.join(" "))
    })
}

/// Connect, to each address in turn where there is a name, and print what the server says.
pub(crate) fn connect(host: &str, port: &str) -> ExitCode {
    told(|| greeting(host, port))
}

/// Send a datagram on a socket that is not connected.
pub(crate) fn datagram(address: &str, port: &str) -> ExitCode {
    told(|| send(address, port))
}

fn greeting(host: &str, port: &str) -> io::Result<String> {
    let mut last = io::Error::other("no address");
    for address in (host, number(port)?).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, PATIENCE) {
            Ok(mut stream) => {
                let mut said = String::new();
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.read_to_string(&mut said)?;
                return Ok(said);
            }
            Err(e) => last = e,
        }
    }
    Err(last)
}

fn send(address: &str, port: &str) -> io::Result<String> {
    let address = SocketAddr::new(address.parse().map_err(io::Error::other)?, number(port)?);
    let socket = if address.is_ipv4() {
        UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))
    } else {
        UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))
    }?;
    socket.send_to(b"a datagram", address)?;
    Ok("sent".to_owned())
}

fn number(port: &str) -> io::Result<u16> {
    port.parse().map_err(io::Error::other)
}

fn told(what: impl FnOnce() -> io::Result<String>) -> ExitCode {
    let began = Instant::now();
    let outcome = what();
    let after = began.elapsed().as_millis();
    match outcome {
        Ok(text) => {
            println!("{text}, after {after} ms");
            ExitCode::SUCCESS
        }
        Err(e) => {
            println!("{:?}: {e}, after {after} ms", e.kind());
            ExitCode::FAILURE
        }
    }
}
