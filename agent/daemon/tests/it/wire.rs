//! Every call of the contract as no client sends it: garbage, huge, half, slow, dropped, never read.
//!
//! Whatever comes, the agent lives, says what is wrong by a status of the right kind, serves others
//! meanwhile, and keeps nothing.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tonic::Code;

use crate::agent::Agent;
use crate::caller::{Body, Caller, frame, framed, half, pieces, whole};
use crate::contract::{Contract, Method};

/// What a caller may send of a stream before it is read.
const WINDOW: u32 = 64 << 10;

/// By how much the agent may grow, in KiB: some requests of 4 MiB, and what a heap keeps of them.
const GROWN_KIB_MAX: u64 = 48 << 10;

fn say(text: &str) {
    drop(writeln!(std::io::stderr(), "{text}"));
}

/// Makes the body of a call.
type Make = dyn Fn(&Contract, &Method) -> Body;

/// One way to call, and what may come of it.
struct Way {
    name: &'static str,
    body: Box<Make>,
    codes: &'static [Code],
}

fn way(
    name: &'static str,
    codes: &'static [Code],
    body: impl Fn(&Contract, &Method) -> Body + 'static,
) -> Way {
    let body = Box::new(body);
    Way { name, body, codes }
}

/// What valid messages that name nothing come to: never a fault of the agent.
const NAMES_NOTHING: &[Code] = &[
    Code::Ok,
    Code::InvalidArgument,
    Code::NotFound,
    Code::OutOfRange,
    Code::Unimplemented,
];

/// Texts that have hurt others.
fn hostile() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("lines", b"a\nb\r\nlevel=ERROR\n\x1b[31mred\x07".to_vec()),
        ("upwards", b"../../../../etc".to_vec()),
        ("dots", b"..".to_vec()),
        ("a slash", b"/".to_vec()),
        ("nothing", Vec::new()),
        ("a zero", b"a\0b".to_vec()),
        ("escaped", b"%2e%2e%2f%00%zz".to_vec()),
        ("turned round", "\u{202e}bd.ppa\u{feff}".as_bytes().to_vec()),
        ("formats", b"{}%s%n$(reboot)`id`".to_vec()),
        ("64 KB", vec![b'x'; 64 << 10]),
        ("400 KB of lines", vec![b'\n'; 400 << 10]),
    ]
}

fn ways() -> Vec<Way> {
    let mut ways = vec![
        way("no message", &[Code::Internal], |_, _| whole(Vec::new())),
        way("no key of a field", &[Code::Internal], |_, _| {
            whole(frame(&[0xff; 64]))
        }),
        way("a length of 4 GiB", &[Code::OutOfRange], |_, _| {
            whole(framed(&[0; 64], u32::MAX))
        }),
        way("a length of 5 MiB", &[Code::OutOfRange], |_, _| {
            whole(frame(&vec![0; 5 << 20]))
        }),
        way(
            "a message cut short",
            &[Code::Internal],
            |contract, method| {
                let message = contract.message(method, b"media");
                let claimed = u32::try_from(message.len()).unwrap() + 100;
                whole(framed(&message, claimed))
            },
        ),
        way("half a length", &[Code::Internal], |_, _| {
            whole(vec![0, 0, 0])
        }),
        way(
            "compressed by nobody knows what",
            &[Code::Internal, Code::Unimplemented],
            |_, _| {
                let mut bytes = frame(b"zzzz");
                bytes[0] = 1;
                whole(bytes)
            },
        ),
        way(
            "text that is none",
            &[Code::Internal, Code::Ok],
            |contract, method| whole(frame(&contract.message(method, b"\xff\xfe\xc0"))),
        ),
        way("1 MB in each text", NAMES_NOTHING, |contract, method| {
            whole(frame(&contract.message(method, &vec![b'x'; 1 << 20])))
        }),
        way("byte by byte", NAMES_NOTHING, |contract, method| {
            let bytes = frame(&contract.message(method, b"m"));
            let bytes = bytes.into_iter().map(|byte| vec![byte]).collect();
            pieces(bytes, Duration::from_millis(2))
        }),
    ];
    for (name, text) in hostile() {
        ways.push(way(name, NAMES_NOTHING, move |contract, method| {
            whole(frame(&contract.message(method, &text)))
        }));
    }
    ways
}

/// The answer of a stream that has no end of its own is ended by the caller's deadline.
fn allowed(way: &Way, method: &Method, code: Code) -> bool {
    let endless = method.path.ends_with("/Watch") && code == Code::DeadlineExceeded;
    way.codes.contains(&code) || (endless && way.codes.contains(&Code::Ok))
        // A call without a field takes any text.
        || (method.path.ends_with("/Info") && code == Code::Ok)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_call_in_every_wrong_way_is_answered_by_a_status_of_the_right_kind() {
    let mut agent = Agent::start().await;
    let contract = Contract::read();
    assert!(contract.methods.len() >= 12, "{:?}", contract.methods);
    let (memory, before) = (agent.peak(), agent.open().len());
    let (mut tried, mut wrong) = (0, Vec::new());
    let caller = Caller::connect(agent.port(), WINDOW).await;
    for method in &contract.methods {
        for way in ways() {
            let body = (way.body)(&contract, method);
            match caller.call(&method.path, body).await {
                Ok((code, _, _)) if allowed(&way, method, code) => {}
                other => wrong.push(format!("{}, {}: {other:.300?}", method.path, way.name)),
            }
            tried += 1;
        }
    }
    assert!(agent.lives(), "{}", agent.log());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    agent.ask(&agent.tcp()).await.unwrap();
    drop(caller);
    let (grown, after) = (agent.peak() - memory, agent.open().len());
    say(&format!(
        "wire: {tried} wrong calls of {} methods; {memory} KiB and {grown} more, {before} \
         descriptors and then {after}",
        contract.methods.len()
    ));
    assert!(grown < GROWN_KIB_MAX, "{grown} KiB");
    assert!(after <= before + 4, "{:?}", agent.open());
    assert!(!agent.log().contains("panicked"), "{}", agent.log());
    // What callers say makes no line of its own in the log.
    let lines = agent.log();
    let forged = lines.lines().find(|line| line.starts_with("level=ERROR"));
    assert_eq!(forged, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_thrown_by_dice_are_answered_and_harm_nobody() {
    let seed = std::env::var("SQLREP_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| fastrand::u64(1..1_000_000_000));
    say(&format!("wire dice: SQLREP_SEED={seed}"));
    let mut dice = fastrand::Rng::with_seed(seed);
    let mut agent = Agent::start().await;
    let contract = Contract::read();
    let memory = agent.peak();
    let caller = Caller::connect(agent.port(), WINDOW).await;
    for method in &contract.methods {
        if method.path.ends_with("/Watch") {
            continue; // each valid one lasts until its deadline
        }
        for _ in 0..60 {
            let mut message = contract.message(method, b"media");
            message.resize_with(message.len() + dice.usize(0..8), || dice.u8(..));
            for _ in 0..dice.usize(0..6) {
                if let Some(at) = (!message.is_empty()).then(|| dice.usize(0..message.len())) {
                    message[at] = dice.u8(..);
                }
            }
            let answer = caller.call(&method.path, whole(frame(&message))).await;
            let (code, words, _) =
                answer.unwrap_or_else(|error| panic!("{}: {error}", method.path));
            assert_ne!(code, Code::Unknown, "{}: {words}", method.path);
        }
    }
    assert!(agent.lives(), "{}", agent.log());
    agent.ask(&agent.tcp()).await.unwrap();
    let grown = agent.peak() - memory;
    assert!(grown < GROWN_KIB_MAX, "{grown} KiB");
    assert!(!agent.log().contains("panicked"), "{}", agent.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_that_stop_in_the_middle_keep_nobody_out() {
    let agent = Agent::start().await;
    let contract = Contract::read();
    let before = agent.open().len();
    // More than there are places for calls, on few connections.
    let mut calls = JoinSet::new();
    for _ in 0..6 {
        let caller = Arc::new(Caller::connect(agent.port(), WINDOW).await);
        for number in 0..32 {
            let method = contract.methods[number % contract.methods.len()].clone();
            let caller = Arc::clone(&caller);
            calls.spawn(async move {
                let body = half(vec![0, 0, 0]);
                caller.patiently(&method.path, body, "1H").await
            });
        }
    }
    sleep(Duration::from_millis(500)).await;
    let begun = Instant::now();
    let (unix, tcp) = (agent.unix(), agent.tcp());
    timeout(Duration::from_secs(5), agent.ask(&unix))
        .await
        .expect("root on the node is not kept out")
        .unwrap();
    let asked = timeout(Duration::from_secs(25), agent.ask(&tcp));
    asked.await.expect("others are served").unwrap();
    let took = begun.elapsed();
    say(&format!("wire half: served after {took:?}"));
    assert!(took > Duration::from_secs(4), "the places were not taken");
    // Each is told that it was too slow, those too that had waited for a place.
    while let Some(ended) = calls.join_next().await {
        let answer = ended.unwrap().unwrap();
        let code = answer.headers().get("grpc-status").unwrap().as_bytes();
        assert_eq!(Code::from_bytes(code), Code::DeadlineExceeded);
    }
    drop(calls);
    gone(&agent, before).await;
}

/// Waits until the agent has no more open than it had.
async fn gone(agent: &Agent, before: usize) {
    let patience = Instant::now() + Duration::from_secs(10);
    while agent.open().len() > before + 2 {
        assert!(Instant::now() < patience, "{:?}", agent.open());
        sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_are_dropped_at_once_or_never_read_leave_nothing() {
    let mut agent = Agent::start().await;
    let contract = Contract::read();
    let (memory, before) = (agent.peak(), agent.open().len());
    let valid = |method: &Method| whole(frame(&contract.good(method)));
    for method in &contract.methods {
        for wait in [0, 1, 5, 20] {
            let caller = Caller::connect(agent.port(), WINDOW).await;
            let call = caller.begin(&method.path, valid(method));
            drop(timeout(Duration::from_millis(wait), call).await);
        }
    }
    let mut held = Vec::new();
    for method in contract.methods.iter().filter(|method| method.streams) {
        // Not a byte of an answer may be sent.
        let caller = Caller::connect(agent.port(), 0).await;
        let answer = caller.begin(&method.path, valid(method)).await.unwrap();
        held.push((caller, answer));
    }
    agent.ask(&agent.tcp()).await.unwrap();
    drop(held);
    gone(&agent, before).await;
    assert!(agent.lives(), "{}", agent.log());
    let grown = agent.peak() - memory;
    say(&format!("wire dropped: {grown} KiB"));
    assert!(grown < GROWN_KIB_MAX, "{grown} KiB");
}

#[tokio::test]
async fn a_call_that_is_not_there_is_said_to_be_unknown() {
    let agent = Agent::start().await;
    let caller = Caller::connect(agent.port(), WINDOW).await;
    for path in [
        "/sqlrep.v1.Databases/None",
        "/sqlrep.v1.None/List",
        "/",
        "/x",
    ] {
        let (code, _, _) = caller.call(path, whole(frame(&[]))).await.unwrap();
        assert_eq!(code, Code::Unimplemented, "{path}");
    }
}
