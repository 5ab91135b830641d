//! The forwarder between real sockets: a client, a server, and a loop that judges by what a test says.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name as Asked, RData, Record, RecordType};

use super::*;

/// Long for a test machine under load, short for a test that hangs.
const PATIENCE: Duration = Duration::from_secs(20);

fn name(text: &str) -> Asked {
    Asked::from_ascii(format!("{text}.")).unwrap()
}

fn query(id: u16, text: &str) -> Vec<u8> {
    let mut message = Message::new(id, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(name(text), RecordType::A));
    message.to_vec().unwrap()
}

fn answer(query: &[u8], address: [u8; 4]) -> Vec<u8> {
    let asked = Message::from_vec(query).unwrap();
    let mut message = Message::new(asked.metadata.id, MessageType::Response, OpCode::Query);
    let owner = asked.queries[0].name().clone();
    message.add_query(asked.queries[0].clone());
    message.add_answer(Record::from_rdata(owner, 60, RData::A(A(address.into()))));
    message.to_vec().unwrap()
}

fn framed(messages: &[Vec<u8>]) -> Vec<u8> {
    let framed = messages.iter().map(|message| {
        let length = u16::try_from(message.len()).unwrap().to_be_bytes();
        [&length, message.as_slice()].concat()
    });
    framed.collect::<Vec<_>>().concat()
}

fn send(stream: &mut TcpStream, messages: &[Vec<u8>]) {
    stream.write_all(&framed(messages)).unwrap();
}

fn receive(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).ok()?;
    let mut message = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut message).ok()?;
    Some(message)
}

fn patient(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// What the loop was asked, in short, and the forwarder that asks.
struct Scene {
    forwarder: Forwarder,
    at: SocketAddr,
    server: TcpListener,
    /// Where the server is, as the loop says.
    told: SocketAddr,
    asked: Vec<String>,
}

impl Scene {
    fn new() -> Self {
        let (listeners, failed) = Listeners::open(&["192.0.2.53".parse().unwrap()]);
        assert!(failed.is_empty(), "{failed:?}");
        let at = listeners.v4.as_ref().unwrap().local_addr().unwrap();
        assert!(listeners.v6.is_none(), "no server of that family");
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        Self {
            forwarder: Forwarder::new(listeners).unwrap(),
            at,
            told: server.local_addr().unwrap(),
            server,
            asked: Vec::new(),
        }
    }

    fn client(&self) -> TcpStream {
        patient(TcpStream::connect(self.at).unwrap())
    }

    /// Judge the next that is asked: names with `bad` in them are refused.
    fn judge(&mut self, most: usize) {
        let server = self.told;
        for _ in 0..most {
            let before = self.asked.len();
            let asked = &mut self.asked;
            let begin = Instant::now();
            while asked.len() == before {
                assert!(
                    begin.elapsed() < PATIENCE,
                    "nothing more is asked: {asked:?}"
                );
                // One at a time.
                self.forwarder.serve(Instant::now(), |ask| {
                    let (told, reply) = judged(ask, server);
                    asked.push(told);
                    reply
                });
                thread::sleep(Duration::from_millis(1));
            }
        }
    }

    fn server(&self) -> TcpStream {
        patient(self.server.accept().unwrap().0)
    }
}

fn judged(ask: Ask, server: SocketAddr) -> (String, Reply) {
    match ask {
        Ask::Who(from) => {
            let asker = Asker {
                subject: 1,
                tgid: 1,
                from,
                server,
            };
            ("who".to_owned(), Reply::Asker(asker))
        }
        Ask::Lookup(_, question) => {
            let told = format!("lookup {}", question.name);
            let mut refusal = Message::new(question.id, MessageType::Response, OpCode::Query);
            refusal.metadata.response_code = ResponseCode::NXDomain;
            let reply = if told.contains("lost") {
                Reply::Lose
            } else if told.contains("bad") {
                Reply::Refuse(refusal.to_vec().unwrap())
            } else {
                Reply::Pass
            };
            (told, reply)
        }
        Ask::Unjudged(why) => (format!("{why:?}"), Reply::Deny),
        Ask::Answer(_, name, given) => {
            let given = given.map(|given| given.addresses);
            (format!("answer {name} {given:?}"), Reply::Pass)
        }
        Ask::Stray(what) => (format!("stray {what:?}"), Reply::Deny),
    }
}

fn code(message: &[u8]) -> (u16, ResponseCode) {
    let message = Message::from_vec(message).unwrap();
    (message.metadata.id, message.metadata.response_code)
}

#[test]
fn each_message_of_a_stream_is_judged() {
    let mut scene = Scene::new();
    let mut client = scene.client();
    let queries = [
        query(1, "good.test"),
        query(2, "bad.test"),
        query(3, "Good2.test"),
    ];
    send(&mut client, &queries);
    scene.judge(4);
    assert_eq!(
        scene.asked,
        [
            "who",
            "lookup good.test",
            "lookup bad.test",
            "lookup good2.test"
        ]
    );
    // The refused one is answered without the server, which never sees it.
    assert_eq!(
        code(&receive(&mut client).unwrap()),
        (2, ResponseCode::NXDomain)
    );
    let mut server = scene.server();
    assert_eq!(receive(&mut server).unwrap(), queries[0]);
    assert_eq!(receive(&mut server).unwrap(), queries[2]);
    // In whatever order it answers.
    let answers = [
        answer(&queries[2], [192, 0, 2, 2]),
        answer(&queries[0], [192, 0, 2, 1]),
    ];
    send(&mut server, &answers);
    scene.judge(2);
    assert_eq!(
        scene.asked[4..],
        [
            "answer good2.test Some([192.0.2.2])",
            "answer good.test Some([192.0.2.1])"
        ]
    );
    assert_eq!(receive(&mut client).unwrap(), answers[0]);
    assert_eq!(receive(&mut client).unwrap(), answers[1]);
    // The client ends, and with it our connection to the server.
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(receive(&mut server), None);
    assert_eq!(receive(&mut client), None);
}

#[test]
fn an_answer_is_not_passed_on_before_it_was_leased() {
    let mut scene = Scene::new();
    let mut client = scene.client();
    let asked = query(1, "good.test");
    send(&mut client, std::slice::from_ref(&asked));
    scene.judge(2);
    let mut server = scene.server();
    receive(&mut server).unwrap();
    send(&mut server, &[answer(&asked, [192, 0, 2, 1])]);
    // Nothing comes while the loop has not heard of it.
    client
        .set_read_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    let early = client.read(&mut [0; 1]);
    assert!(matches!(early, Err(error) if error.kind() == ErrorKind::WouldBlock));
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    scene.judge(1);
    assert!(receive(&mut client).is_some());
}

#[test]
fn a_message_in_pieces_is_one_message() {
    let mut scene = Scene::new();
    let mut client = scene.client();
    let octets = framed(&[query(1, "bad.test"), query(2, "bad2.test")]);
    client.set_nodelay(true).unwrap();
    for octet in &octets {
        client.write_all(&[*octet]).unwrap();
    }
    scene.judge(3);
    assert_eq!(scene.asked, ["who", "lookup bad.test", "lookup bad2.test"]);
    assert_eq!(code(&receive(&mut client).unwrap()).0, 1);
    assert_eq!(code(&receive(&mut client).unwrap()).0, 2);
}

#[test]
fn a_stranger_is_cut_off_unheard() {
    let scene = Scene::new();
    let mut stranger = scene.client();
    send(&mut stranger, &[query(1, "good.test")]);
    let begin = Instant::now();
    let mut asked = 0;
    while asked == 0 {
        assert!(begin.elapsed() < PATIENCE);
        scene.forwarder.serve(Instant::now(), |ask| {
            assert!(matches!(ask, Ask::Who(_)));
            asked += 1;
            Reply::Close
        });
    }
    assert_eq!(receive(&mut stranger), None);
    // Nothing that it said was ever asked about.
    scene
        .forwarder
        .serve(Instant::now(), |_| panic!("a stranger was heard"));
}

#[test]
fn without_its_server_the_client_is_reset() {
    let mut scene = Scene::new();
    let mut client = scene.client();
    send(&mut client, &[query(1, "good.test")]);
    // Nobody listens there, and no test ever will.
    scene.told = "127.0.0.1:1".parse().unwrap();
    scene.judge(2);
    let got = client.read(&mut [0; 2]);
    assert!(
        matches!(&got, Err(error) if error.kind() == ErrorKind::ConnectionReset),
        "{got:?}"
    );
}

#[test]
fn what_cannot_be_judged_is_answered_as_far_as_it_is_understood() {
    let mut scene = Scene::new();
    let mut client = scene.client();
    let mut two_questions = query(7, "good.test");
    two_questions[5] = 2;
    let mut update = query(8, "good.test");
    update[2] |= 5 << 3;
    send(&mut client, &[two_questions, update]);
    scene.judge(3);
    assert_eq!(scene.asked, ["who", "Unreadable", "NoLookup"]);
    assert_eq!(
        code(&receive(&mut client).unwrap()),
        (7, ResponseCode::FormErr)
    );
    assert_eq!(
        code(&receive(&mut client).unwrap()),
        (8, ResponseCode::FormErr)
    );
    // No header: nothing to answer to.
    send(&mut client, &[b"junk".to_vec()]);
    scene.judge(1);
    assert_eq!(receive(&mut client), None);
}

#[test]
fn what_a_server_says_unasked_is_judged_as_that() {
    let mut scene = Scene::new();
    let mut client = scene.client();
    let asked = query(1, "good.test");
    send(&mut client, std::slice::from_ref(&asked));
    scene.judge(2);
    let mut server = scene.server();
    receive(&mut server).unwrap();
    let other = answer(&query(2, "good.test"), [192, 0, 2, 9]);
    send(&mut server, &[other]);
    scene.judge(1);
    assert_eq!(scene.asked[2], "stray Unasked");
    // Here the loop denied it, and the connection ends without a word of it.
    assert_eq!(receive(&mut client), None);
}

#[test]
fn a_flood_of_queries_waits_its_turn() {
    let mut scene = Scene::new();
    let mut client = scene.client();
    let mut writer = client.try_clone().unwrap();
    let flood = thread::spawn(move || {
        for id in 0..2000 {
            send(&mut writer, &[query(id, "bad.test")]);
        }
    });
    flood.join().unwrap();
    scene.judge(1);
    let server = scene.told;
    // What is asked before anything is replied: the thread hears of that at the end of each call only.
    let serve = |most: usize| {
        let mut waiting = 0;
        scene.forwarder.serve(Instant::now() + PATIENCE, |ask| {
            waiting += 1;
            judged(ask, server).1
        });
        assert!(waiting <= most, "{waiting} wait at once");
        waiting
    };
    let (begin, mut answered) = (Instant::now(), 0);
    thread::sleep(Duration::from_millis(100));
    let mut first = serve(64);
    while answered < 2000 {
        assert!(begin.elapsed() < PATIENCE, "{answered} answered");
        for _ in 0..first {
            assert_eq!(code(&receive(&mut client).unwrap()).0, answered);
            answered += 1;
        }
        first = serve(2000);
    }
}

#[test]
fn a_large_answer_passes_to_a_client_that_reads_late() {
    let mut scene = Scene::new();
    let mut client = scene.client();
    let asked = query(1, "good.test");
    let count = 40;
    let queries: Vec<_> = (0..count).map(|id| query(id, "good.test")).collect();
    send(&mut client, &queries);
    scene.judge(1 + usize::from(count));
    let mut server = scene.server();
    let large = |query: &[u8]| {
        let mut message = answer(query, [192, 0, 2, 1]);
        message.resize(60_000, 0);
        message
    };
    for query in &queries {
        assert_eq!(receive(&mut server).unwrap(), *query);
    }
    let writer = thread::spawn(move || {
        for query in &queries {
            send(&mut server, &[large(query)]);
        }
        server
    });
    for _ in 0..count {
        scene.judge(1);
        assert_eq!(receive(&mut client).unwrap().len(), 60_000);
    }
    drop(writer.join().unwrap());
    drop(asked);
    assert_eq!(receive(&mut client), None);
}

#[test]
fn its_thread_begins_with_the_first_connection() {
    let mut scene = Scene::new();
    let waits = |scene: &Scene| scene.forwarder.fds().count();
    let nobody = |_| panic!("nobody has connected");
    scene.forwarder.serve(Instant::now(), nobody);
    // The bell, and where clients come.
    assert_eq!(waits(&scene), 2);
    let mut client = scene.client();
    send(&mut client, &[query(1, "lost.test")]);
    scene.judge(2);
    assert_eq!(waits(&scene), 1);
}

#[test]
fn its_end_is_the_end_of_its_connections() {
    let mut scene = Scene::new();
    let mut client = scene.client();
    send(&mut client, &[query(1, "lost.test")]);
    scene.judge(2);
    drop(scene.forwarder);
    assert_eq!(receive(&mut client), None);
}
