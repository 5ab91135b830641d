//! Clients, as small as they can be: the C library's resolver, one socket, one line about what came of it.

use std::io::{self, Read as _, Write as _};
use std::net::{
    Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream, ToSocketAddrs as _, UdpSocket,
};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr as SocketName, UnixStream};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketType};

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

/// Connect, and say that it is for a name: in a TLS client's hello, or a request's head; `-cut` in many pieces.
pub(crate) fn claim(way: &str, address: &str, port: &str, name: &str) -> ExitCode {
    if way.starts_with("later") {
        return later(way, address, port, name);
    }
    told(|| {
        let text = claim_text(way.trim_end_matches("-cut"), name);
        let mut stream = TcpStream::connect((address, number(port)?))?;
        stream.set_nodelay(true)?;
        let piece = if way.ends_with("-cut") { 7 } else { text.len() };
        for part in text.chunks(piece) {
            stream.write_all(part)?;
        }
        Ok("said".to_owned())
    })
}

/// Connect, ask for the page of a name that is allowed, then for that of another one, and wait until the server has all of it.
fn later(way: &str, address: &str, port: &str, name: &str) -> ExitCode {
    told(|| {
        let mut stream = TcpStream::connect((address, number(port)?))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(&claim_text("http", "mirror.internal"))?;
        let text = claim_text("http", name);
        let piece = if way.ends_with("-cut") { 7 } else { text.len() };
        for part in text.chunks(piece) {
            stream.write_all(part)?;
        }
        stream.shutdown(Shutdown::Write)?;
        stream.read_to_end(&mut Vec::new())?;
        Ok("said".to_owned())
    })
}

/// Make a socket of SCTP (RFC 9260).
pub(crate) fn sctp() -> ExitCode {
    told(|| {
        let protocol = Some(rustix::net::ipproto::SCTP);
        rustix::net::socket(AddressFamily::INET, SocketType::STREAM, protocol)?;
        Ok("made".to_owned())
    })
}

/// What a client of this kind says first, to somebody of this name.
pub(crate) fn claim_text(way: &str, name: &str) -> Vec<u8> {
    match way {
        "tls" => hello(name),
        _ => format!("GET / HTTP/1.1\r\nHost: {name}\r\n\r\n").into_bytes(),
    }
}

/// A hello that has nothing but a server name (RFC 8446, 4.1.2; RFC 6066, 3), and enough besides to be of usual size.
fn hello(name: &str) -> Vec<u8> {
    let with_length = |width: usize, octets: &[u8]| {
        let length = (octets.len() as u32).to_be_bytes();
        [&length[4 - width..], octets].concat()
    };
    let name = [&[0][..], &with_length(2, name.as_bytes())].concat();
    let extensions = [
        &[0, 21][..],
        &with_length(2, &[0; 1500]),
        &[0, 0],
        &with_length(2, &with_length(2, &name)),
    ]
    .concat();
    let body = [
        &[3, 3][..],
        &[7; 32],
        &[0, 0, 2, 0x13, 1, 1, 0],
        &with_length(2, &extensions),
    ]
    .concat();
    let handshake = [&[1][..], &with_length(3, &body)].concat();
    [&[22, 3, 1][..], &with_length(2, &handshake)].concat()
}

/// Connect to a unix socket; `@` stands for the NUL of an abstract name.
pub(crate) fn unix(path: &str) -> ExitCode {
    told(|| {
        match path.strip_prefix('@') {
            Some(name) => UnixStream::connect_addr(&SocketName::from_abstract_name(name)?)?,
            None => UnixStream::connect(path)?,
        };
        Ok("reached".to_owned())
    })
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
