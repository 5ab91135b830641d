//! The world's name server: hickory's server on hickory's protocol, with answers from a [`Zone`].

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use hickory_server::Server;
use hickory_server::net::runtime::Time;
use hickory_server::proto::op::{Edns, Header, HeaderCounts, Metadata, ResponseCode};
use hickory_server::proto::rr::rdata::{A, AAAA, CNAME, TXT};
use hickory_server::proto::rr::{Name, RData, Record, RecordType};
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;

use crate::node::Node;
use crate::web::Authority;

/// No chain in a test is longer; a loop of CNAMEs ends here.
const LONGEST_CHAIN: usize = 16;

/// What a server that is no name server of the lab answers to a query without extensions: this address, if one is asked for.
pub fn plain_answer(query: &[u8], address: Ipv4Addr) -> Vec<u8> {
    let mut answer = query.to_vec();
    answer[2] |= 0x80;
    // The type stands before the class, at the end.
    if query.ends_with(&[0, 1, 0, 1]) {
        answer[7] = 1;
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        answer.extend(address.octets());
    }
    answer
}

/// What a name server knows. A name that is not in it does not exist (NXDOMAIN); one that is, but not
/// with the type asked for, has an empty answer.
#[derive(Debug, Clone, Default)]
pub struct Zone {
    names: BTreeMap<String, Entry>,
    /// Suffixes below which every name exists.
    below: Vec<(String, Vec<RData>)>,
}

#[derive(Debug, Clone)]
struct Entry {
    data: Vec<RData>,
    ttl: u32,
    fate: Fate,
    /// Counts the answers, of a name that has another address each time.
    turn: Option<Arc<AtomicUsize>>,
}

/// How a question about a name is dealt with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Answer,
    AnswerAfter(Duration),
    ServerFailure,
    Silence,
}

impl Default for Entry {
    fn default() -> Self {
        Self {
            data: Vec::new(),
            ttl: 300,
            fate: Fate::Answer,
            turn: None,
        }
    }
}

impl Entry {
    /// What is answered of its data this time.
    fn given(&self, qtype: RecordType) -> Vec<&RData> {
        let mut given: Vec<&RData> = self
            .data
            .iter()
            .filter(|data| data.record_type() == qtype)
            .collect();
        if let Some(turn) = self.turn.as_ref().filter(|_| !given.is_empty()) {
            let at = turn.fetch_add(1, Ordering::Relaxed) % given.len();
            given = vec![given[at]];
        }
        given
    }
}

impl Zone {
    /// A server that knows nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// A name with both addresses of a machine.
    pub fn host(self, name: &str, node: &Node) -> Self {
        self.a(name, node.v4()).aaaa(name, node.v6())
    }

    /// A name with an IPv4 address. May be given more than once.
    pub fn a(self, name: &str, address: Ipv4Addr) -> Self {
        self.add(name, RData::A(A(address)))
    }

    /// A name with an IPv6 address. May be given more than once.
    pub fn aaaa(self, name: &str, address: Ipv6Addr) -> Self {
        self.add(name, RData::AAAA(AAAA(address)))
    }

    /// Another name for `target`. The answer holds the whole chain.
    pub fn cname(self, name: &str, target: &str) -> Self {
        let target = parsed(target);
        self.add(name, RData::CNAME(CNAME(target)))
    }

    /// A text.
    pub fn txt(self, name: &str, text: &str) -> Self {
        self.add(name, RData::TXT(TXT::new(vec![text.to_owned()])))
    }

    /// Every name below `suffix` has both addresses of a machine.
    pub fn below(mut self, suffix: &str, node: &Node) -> Self {
        self.below.push((
            key(suffix),
            vec![RData::A(A(node.v4())), RData::AAAA(AAAA(node.v6()))],
        ));
        self
    }

    /// How long this name's answers may be kept, in seconds.
    pub fn ttl(mut self, name: &str, seconds: u32) -> Self {
        self.entry(name).ttl = seconds;
        self
    }

    /// Each answer about this name has the next of its addresses.
    pub fn rotates(mut self, name: &str) -> Self {
        self.entry(name).turn = Some(Arc::default());
        self
    }

    /// The server fails on this name (SERVFAIL).
    pub fn servfail(mut self, name: &str) -> Self {
        self.entry(name).fate = Fate::ServerFailure;
        self
    }

    /// The server takes its time over this name.
    pub fn slow(mut self, name: &str, delay: Duration) -> Self {
        self.entry(name).fate = Fate::AnswerAfter(delay);
        self
    }

    /// The server never answers questions about this name.
    pub fn silent(mut self, name: &str) -> Self {
        self.entry(name).fate = Fate::Silence;
        self
    }

    fn add(mut self, name: &str, data: RData) -> Self {
        self.entry(name).data.push(data);
        self
    }

    fn entry(&mut self, name: &str) -> &mut Entry {
        self.names.entry(key(name)).or_default()
    }

    fn fate(&self, name: &str) -> Fate {
        self.names
            .get(name)
            .map_or(Fate::Answer, |entry| entry.fate)
    }

    /// The answer section for a question, following CNAMEs; none if the name does not exist.
    fn answer(&self, asked: &Name, qtype: RecordType) -> Option<Vec<Record>> {
        let mut records = Vec::new();
        let mut owner = asked.clone();
        for _ in 0..LONGEST_CHAIN {
            let name = key(&owner.to_ascii());
            let (data, given, ttl) = match self.names.get(&name) {
                Some(entry) => (&entry.data, entry.given(qtype), entry.ttl),
                None => match self
                    .below
                    .iter()
                    .find(|(suffix, _)| name.ends_with(&format!(".{suffix}")))
                {
                    Some((_, data)) => {
                        let of_type = data.iter().filter(|data| data.record_type() == qtype);
                        (data, of_type.collect(), 300)
                    }
                    // The far end of a chain may be missing; its beginning is still an answer.
                    None if records.is_empty() => return None,
                    None => break,
                },
            };
            records.extend(
                given
                    .into_iter()
                    .map(|data| Record::from_rdata(owner.clone(), ttl, data.clone())),
            );
            let next = data.iter().find_map(|data| {
                if let RData::CNAME(CNAME(next)) = data {
                    Some(next)
                } else {
                    None
                }
            });
            match next {
                Some(next) if qtype != RecordType::CNAME => {
                    records.push(Record::from_rdata(
                        owner.clone(),
                        ttl,
                        RData::CNAME(CNAME(next.clone())),
                    ));
                    owner = next.clone();
                }
                _ => break,
            }
        }
        Some(records)
    }
}

/// A question as the server saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// The name, lower case, without the final dot.
    pub name: String,
    /// `A`, `AAAA`, ….
    pub qtype: String,
    /// Who asked.
    pub from: IpAddr,
    /// `udp` or `tcp`.
    pub over: String,
}

/// A name server at work.
#[derive(Debug, Clone)]
pub struct Dns {
    seen: Arc<Mutex<Vec<Question>>>,
    address: IpAddr,
}

impl Dns {
    /// Serve `zone` on UDP and TCP port 53 of `node`, v4 and v6.
    pub fn start(node: &Node, zone: Zone) -> Self {
        Self::start_on(node, 53, zone)
    }

    /// The same on any port.
    pub fn start_on(node: &Node, port: u16, zone: Zone) -> Self {
        let seen = Arc::new(Mutex::default());
        let handler = Answers {
            zone,
            seen: Arc::clone(&seen),
        };
        node.spawn(answer(
            handler,
            node.datagrams(port).into(),
            node.listen(port),
        ));
        Self {
            seen,
            address: node.v4().into(),
        }
    }

    /// Serve `zone` over QUIC on port 853 of `node` (RFC 9250), under these names.
    pub fn start_over_quic(node: &Node, zone: Zone, authority: &Authority, names: &[&str]) -> Self {
        let seen = Arc::new(Mutex::default());
        let handler = Answers {
            zone,
            seen: Arc::clone(&seen),
        };
        let mut config = authority.config(names);
        config.alpn_protocols = vec![b"doq".to_vec()];
        let (config, sockets) = (Arc::new(config), node.datagrams(853));
        node.spawn(async move {
            let mut server = Server::new(handler);
            for socket in sockets {
                let socket = tokio::net::UdpSocket::from_std(socket).expect("take the socket over");
                server
                    .register_quic_listener_and_tls_config(
                        socket,
                        Duration::from_secs(5),
                        Arc::clone(&config),
                    )
                    .expect("serve names over QUIC");
            }
            let _ = server.block_until_done().await;
        });
        Self {
            seen,
            address: node.v4().into(),
        }
    }

    /// Every question that reached the server, in order.
    pub fn seen(&self) -> Vec<Question> {
        self.seen.lock().expect("no panic while held").clone()
    }

    /// Did a question about this name reach the server?
    pub fn was_asked(&self, name: &str) -> bool {
        self.seen()
            .iter()
            .any(|question| question.name == key(name))
    }

    /// Where it listens.
    pub fn address(&self) -> IpAddr {
        self.address
    }
}

/// Answer from `zone` on these sockets for ever: a name server without a world around it.
pub async fn serve(zone: Zone, datagrams: Vec<UdpSocket>, listener: TcpListener) {
    let seen = Arc::default();
    answer(Answers { zone, seen }, datagrams, listener).await;
}

/// Sockets are handed over within the runtime; the server is ready before that, since the sockets
/// already take what is sent to them.
async fn answer(handler: Answers, datagrams: Vec<UdpSocket>, listener: TcpListener) {
    let mut server = Server::new(handler);
    for socket in datagrams {
        server.register_socket(
            tokio::net::UdpSocket::from_std(socket).expect("take the socket over"),
        );
    }
    let listener = tokio::net::TcpListener::from_std(listener).expect("take the listener over");
    server.register_listener(listener, Duration::from_secs(5), 32);
    let _ = server.block_until_done().await;
}

struct Answers {
    zone: Zone,
    seen: Arc<Mutex<Vec<Question>>>,
}

#[async_trait]
impl RequestHandler for Answers {
    async fn handle_request<R: ResponseHandler, T: Time>(
        &self,
        request: &Request,
        mut reply: R,
    ) -> ResponseInfo {
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.recursion_available = true;
        let nothing_sent = ResponseInfo::from(Header {
            metadata,
            counts: HeaderCounts::default(),
        });

        let mut edns = Edns::new();
        edns.set_max_payload(request.max_payload().clamp(512, 1232));
        let edns = request.edns.is_some().then_some(&edns);

        let answers = match request.queries.queries() {
            [question] => {
                let name = question.original().name().clone();
                let lower = key(&name.to_ascii());
                self.seen
                    .lock()
                    .expect("no panic while held")
                    .push(Question {
                        name: lower.clone(),
                        qtype: question.query_type().to_string(),
                        from: request.src().ip(),
                        over: request.protocol().to_string().to_lowercase(),
                    });
                match self.zone.fate(&lower) {
                    Fate::Silence => return nothing_sent,
                    Fate::ServerFailure => Err(ResponseCode::ServFail),
                    Fate::AnswerAfter(delay) => {
                        tokio::time::sleep(delay).await;
                        self.zone
                            .answer(&name, question.query_type())
                            .ok_or(ResponseCode::NXDomain)
                    }
                    Fate::Answer => self
                        .zone
                        .answer(&name, question.query_type())
                        .ok_or(ResponseCode::NXDomain),
                }
            }
            _ => Err(ResponseCode::FormErr),
        };
        let answers = answers.unwrap_or_else(|code| {
            metadata.response_code = code;
            Vec::new()
        });
        let response = MessageResponseBuilder::new(&request.queries, edns).build(
            metadata,
            &answers,
            [],
            [],
            [],
        );
        reply.send_response(response).await.unwrap_or(nothing_sent)
    }
}

fn parsed(name: &str) -> Name {
    Name::from_ascii(format!("{}.", name.trim_end_matches('.')))
        .unwrap_or_else(|e| panic!("not a name: {name}: {e}"))
}

fn key(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}
