//! A name server and a TCP server on addresses that `scripts/vm/init` routes to the loopback device.

use std::io::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket};

use blackstart_lab::{Zone, dns};

/// Where names are asked for; `/etc/resolv.conf` says so too.
pub(crate) const RESOLVER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 53);
/// What no rule of the stories forbids.
pub(crate) const MIRROR: (Ipv4Addr, Ipv6Addr) = addresses(10);
/// What the stories deny by its name.
pub(crate) const GITHUB: (Ipv4Addr, Ipv6Addr) = addresses(20);
/// What the stories deny by its address: in 198.51.100.128/25 and 2001:db8::80/121.
pub(crate) const FORBIDDEN: (Ipv4Addr, Ipv6Addr) = addresses(200);
/// Where the TCP server listens, on every address.
pub(crate) const PORT: u16 = 7007;

const fn addresses(last: u8) -> (Ipv4Addr, Ipv6Addr) {
    (
        Ipv4Addr::new(198, 51, 100, last),
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last as u16),
    )
}

/// Start both; they take what is sent to them when this returns, and end with this process.
pub(crate) fn start() {
    let zone = [("mirror.internal", MIRROR), ("github.com", GITHUB)]
        .into_iter()
        .fold(Zone::new(), |zone, (name, (v4, v6))| {
            zone.a(name, v4).aaaa(name, v6)
        });
    let datagrams = UdpSocket::bind((RESOLVER, 53)).expect("bind the name server's UDP port");
    let listener = TcpListener::bind((RESOLVER, 53)).expect("bind the name server's TCP port");
    datagrams
        .set_nonblocking(true)
        .and_then(|()| listener.set_nonblocking(true))
        .expect("make the name server's sockets non-blocking");
    std::thread::spawn(move || {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("start a runtime")
            .block_on(dns::serve(zone, vec![datagrams], listener));
    });

    // An IPv6 wildcard takes both families.
    let greeter = TcpListener::bind((Ipv6Addr::UNSPECIFIED, PORT)).expect("bind the TCP server");
    std::thread::spawn(move || {
        for mut client in greeter.incoming().flatten() {
            let _ = client.write_all(b"hello");
        }
    });
}
