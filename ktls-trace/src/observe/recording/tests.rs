//! Recordings as a whole: written and read back, cut, bent, anonymized.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Read as _,
    net::SocketAddr,
    ops::ControlFlow,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use flate2::bufread::MultiGzDecoder;
use proptest::prelude::*;
use serde_json::Value;

use super::{Error, KernelFacts, Options, Reader, Recorder, Replayed, VERSION, chunk, replay};
use crate::{
    correlate::{
        Config, Correlator, Output,
        event::{Body, Changed, Event, Lost, Name, Reloaded, Started, Stopped},
        tests::any_what,
    },
    observe::{Observation, SocketKey, What},
};

/// A folder of a test's own, gone at its end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("ktls-trace-recording-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("run.ktrace")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

fn options(path: &Path) -> Options {
    Options {
        path: path.to_owned(),
        anonymize: false,
        limit_bytes: u64::MAX,
    }
}

/// What happens in a run, one after another.
#[derive(Clone, Debug)]
enum Step {
    Observe(Observation),
    Tell(Body),
    /// A second passes: what there is is written.
    Write,
}

fn lost(count: u64) -> Body {
    Body::Lost(Lost {
        place: "ring-buffer".to_owned(),
        count,
        total: count,
    })
}

fn started() -> Body {
    Body::Started(Started {
        version: "0".to_owned(),
        kernel: "6.12.1".to_owned(),
        mode: "hooks".to_owned(),
        probes: Some("auto".to_owned()),
        // Not every parser gives this back as it was.
        threshold_ms: 0.1 + 0.2,
        poll_interval_ms: 50.0,
        hooks: vec!["tls_push_sg".to_owned()],
        cannot_see: Vec::new(),
    })
}

fn name_of(body: &Body) -> Name {
    match body {
        Body::Started(_) => Name::Started,
        Body::Stopped(_) => Name::Stopped,
        _ => Name::Lost,
    }
}

/// A run: hands the steps to a correlator and to a recorder as the session does; the lines it wrote.
fn live(steps: &[Step], options: Options) -> Vec<String> {
    let mut correlator = Correlator::new(Config::default());
    let mut recorder = Recorder::create(options).unwrap();
    recorder.begin(Config::default(), KernelFacts::default());
    let mut lines = Vec::new();
    let keep = |lines: &mut Vec<String>, outputs: Vec<Output>| {
        for output in outputs {
            if let Output::Event(event) = output {
                lines.push(serde_json::to_string(&event).unwrap());
            }
        }
    };
    let tell = |recorder: &mut Recorder, lines: &mut Vec<String>, unix_ns, body: Body| {
        recorder.told(unix_ns, &body);
        let event = Event::new(name_of(&body), unix_ns, body);
        lines.push(serde_json::to_string(&event).unwrap());
    };
    tell(&mut recorder, &mut lines, 1, started());
    for step in steps {
        match step {
            Step::Observe(observation) => {
                recorder.observed(observation);
                keep(&mut lines, correlator.observe(observation));
            }
            Step::Tell(body) => tell(&mut recorder, &mut lines, 7, body.clone()),
            Step::Write => recorder.hand_over(),
        }
    }
    let end_ns = 20_000_000_000_000;
    recorder.finished(end_ns);
    keep(&mut lines, correlator.finish(end_ns));
    let stopped = Body::Stopped(Stopped {
        stalls: correlator.stalls(),
        ..Stopped::default()
    });
    tell(&mut recorder, &mut lines, 9, stopped);
    assert_eq!(recorder.close(), None);
    lines
}

/// The lines of a replay, and how it ended.
fn replayed(recording: &[u8]) -> (Vec<String>, Result<Replayed, Error>) {
    let mut lines = Vec::new();
    let mut reader = match Reader::new(recording) {
        Ok(reader) => reader,
        Err(error) => return (lines, Err(error)),
    };
    let ended = replay(&mut reader, |event| {
        lines.push(serde_json::to_string(event).unwrap());
        ControlFlow::Continue(())
    });
    (lines, ended)
}

/// An address that must not leave the house, one of a few.
fn any_address() -> impl Strategy<Value = SocketAddr> {
    (0_usize..4, 1_u16..3).prop_map(|(host, port)| {
        let host = ["10.9.8.7", "10.9.8.6", "fd00:9::8", "::ffff:10.9.8.7"][host];
        (host.parse::<std::net::IpAddr>().unwrap(), port).into()
    })
}

/// A name that must not either.
fn any_name() -> impl Strategy<Value = Option<String>> {
    prop::option::of((0_u8..3).prop_map(|number| format!("/secret/{number}")))
}

fn any_observation() -> impl Strategy<Value = Observation> {
    let named = (1_u64..4, 1_u32..3, any_name(), any_name(), any_name()).prop_map(
        |(key, pid, comm, exe, cgroup)| What::ProcessNamed {
            key: SocketKey(key),
            pid,
            comm,
            exe,
            cgroup,
            netns: Some(4_026_531_840),
        },
    );
    let what = prop_oneof![8 => any_what(), 1 => named];
    let ends = (any_address(), any_address(), any_name());
    (0_u64..6000, what, ends).prop_map(|(ms, mut what, (src, dst, thread))| {
        match &mut what {
            What::Refused { process, hold, .. } => {
                (hold.socket.src, hold.socket.dst) = (Some(src), Some(dst));
                process.thread = thread.unwrap_or_default();
            }
            What::PersistFired { hold, .. } => {
                (hold.socket.src, hold.socket.dst) = (Some(src), Some(dst));
            }
            What::Sampled {
                sample: Some(sample),
                ..
            } => (sample.src, sample.dst) = (Some(src), Some(dst)),
            _ => {}
        }
        Observation {
            at_ns: 1_000_000_000_000 + ms * 1_000_000,
            what,
        }
    })
}

fn any_steps(longest: usize) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        20 => any_observation().prop_map(Step::Observe),
        1 => (1_u64..9).prop_map(|count| Step::Tell(lost(count))),
        1 => Just(Step::Write),
    ];
    prop::collection::vec(step, 0..longest)
}

/// Pairs of values that stand at the same place in both; everything else must be equal.
fn differences(plain: &Value, anonymized: &Value, found: &mut BTreeSet<(String, String)>) {
    match (plain, anonymized) {
        (Value::Object(plain), Value::Object(anonymized)) => {
            assert!(plain.keys().eq(anonymized.keys()));
            for (key, value) in plain {
                let other = &anonymized[key];
                if ["src", "dst", "comm", "thread", "exe", "cgroup"].contains(&key.as_str()) {
                    let kind = if ["src", "dst"].contains(&key.as_str()) {
                        "address"
                    } else if key == "thread" {
                        "comm"
                    } else {
                        key
                    };
                    assert_eq!(value.is_null(), other.is_null(), "{key}");
                    found.insert((format!("{kind} {value}"), format!("{kind} {other}")));
                } else {
                    differences(value, other, found);
                }
            }
        }
        _ => assert_eq!(plain, anonymized),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_recorded_replays_to_the_same_lines(steps in any_steps(80)) {
        let folder = Folder::new();
        let lines = live(&steps, options(&folder.file()));
        let (again, ended) = replayed(&fs::read(folder.file()).unwrap());
        prop_assert_eq!(again, lines);
        prop_assert!(matches!(ended, Ok(Replayed::ToTheEnd(end)) if !end.full), "{:?}", ended);
    }

    #[test]
    fn an_anonymized_recording_replays_to_the_same_lines_but_for_names(steps in any_steps(80)) {
        let folder = Folder::new();
        let lines = live(&steps, Options { anonymize: true, ..options(&folder.file()) });
        let bytes = fs::read(folder.file()).unwrap();
        let mut text = String::new();
        MultiGzDecoder::new(bytes.as_slice()).read_to_string(&mut text).unwrap();
        for secret in ["10.9.8.", "fd00:9::8", "/secret/"] {
            prop_assert!(!text.contains(secret), "{} is in the recording", secret);
        }
        let (again, ended) = replayed(&bytes);
        prop_assert!(ended.is_ok());
        prop_assert_eq!(again.len(), lines.len());
        let mut pairs = BTreeSet::new();
        for (plain, anonymized) in lines.iter().zip(&again) {
            let value = |line: &str| serde_json::from_str::<Value>(line).unwrap();
            differences(&value(plain), &value(anonymized), &mut pairs);
        }
        // Each has one stand-in, and no two have the same.
        let forth: BTreeMap<_, _> = pairs.iter().map(|(a, b)| (a, b)).collect();
        let back: BTreeMap<_, _> = pairs.iter().map(|(a, b)| (b, a)).collect();
        prop_assert_eq!((forth.len(), back.len()), (pairs.len(), pairs.len()));
    }
}

#[test]
fn an_anonymized_recording_has_stand_ins_for_what_options_said() {
    let changed = |option: &str, was: &[&str], is: &[&str]| {
        let owned = |values: &[&str]| values.iter().map(|&value| value.to_owned()).collect();
        Changed {
            option: option.to_owned(),
            was: owned(was),
            is: owned(is),
        }
    };
    let reloaded = Reloaded {
        changed: vec![
            changed("threshold", &["20ms"], &["30ms"]),
            changed("otlp", &[], &["http://10.9.8.7:4318"]),
            changed("metrics-listen", &["9190"], &["9190", "10.9.8.7:9190"]),
        ],
        needs_restart: vec!["probes".to_owned()],
    };
    let folder = Folder::new();
    let told = Step::Tell(Body::Reloaded(reloaded));
    live(
        &[told],
        Options {
            anonymize: true,
            ..options(&folder.file())
        },
    );
    let (lines, ended) = replayed(&fs::read(folder.file()).unwrap());
    assert!(ended.is_ok());
    let line = lines.iter().find(|line| line.contains("reloaded")).unwrap();
    let event: Value = serde_json::from_str(line).unwrap();
    let said = |index: usize| {
        let change = &event["changed"][index];
        (change["was"].clone(), change["is"].clone())
    };
    assert_eq!(said(0), (["20ms"].into(), ["30ms"].into()));
    let [none, collector]: [&[&str]; 2] = [&[], &["value-1"]];
    assert_eq!(said(1), (none.into(), collector.into()));
    assert_eq!(said(2), (["value-2"].into(), ["value-2", "value-3"].into()));
}

/// A short recording of three chunks with a stall in it, and its lines.
fn small() -> (Vec<u8>, Vec<String>) {
    let hold = || crate::correlate::rules::tests::corked().clone();
    let at = |ms: u64, what| {
        Step::Observe(Observation {
            at_ns: 1_000_000_000_000 + ms * 1_000_000,
            what,
        })
    };
    let refused = What::Refused {
        key: SocketKey(7),
        process: super::super::Process {
            pid: 1,
            tid: 2,
            thread: "t".to_owned(),
        },
        blocking: true,
        hold: Box::new(hold()),
    };
    let steps = [
        at(0, What::Clock { unix_ns: 1 }),
        at(1, refused),
        Step::Write,
        at(40, What::Tick),
        Step::Tell(lost(3)),
        Step::Write,
        at(90, What::Closing { key: SocketKey(7) }),
    ];
    let folder = Folder::new();
    let lines = live(&steps, options(&folder.file()));
    assert!(lines.iter().any(|line| line.contains("stall-opened")));
    (fs::read(folder.file()).unwrap(), lines)
}

#[test]
fn a_recording_cut_anywhere_gives_the_lines_before_the_cut_and_an_error() {
    let (recording, lines) = small();
    let mut lengths = BTreeSet::new();
    for length in 0..recording.len() {
        let (again, ended) = replayed(&recording[..length]);
        assert!(lines.starts_with(&again), "cut at {length}");
        match ended {
            Err(Error::NotARecording) => assert_eq!(length, 0),
            Err(Error::CutShort { .. }) => {}
            other => panic!("cut at {length}: {other:?}"),
        }
        lengths.insert(again.len());
    }
    assert!(
        lengths.len() > 2,
        "chunks that were whole are told: {lengths:?}"
    );
}

#[test]
fn a_bit_that_flipped_anywhere_is_reported_or_changes_nothing() {
    let (mut recording, lines) = small();
    let mut reported = 0;
    for index in 0..recording.len() {
        for bit in [index % 8, (index + 3) % 8] {
            recording[index] ^= 1 << bit;
            let (again, ended) = replayed(&recording);
            if ended.is_ok() {
                assert_eq!(again, lines, "byte {index} bit {bit}");
            } else {
                assert!(lines.starts_with(&again), "byte {index} bit {bit}");
                reported += 1;
            }
            recording[index] ^= 1 << bit;
        }
    }
    // What may change unnoticed is the time, the system and some flags in the head of each of the four
    // chunks: eight bytes.
    let unnoticed = recording.len() * 2 - reported;
    assert!(unnoticed <= 4 * 8 * 2, "{unnoticed}");
}

#[test]
fn other_files_are_no_recordings() {
    let packed = chunk::pack(b"{\"some\":\"json\"}\n").unwrap();
    for bytes in [b"".as_slice(), b"plain text\n", &packed] {
        let (_, ended) = replayed(bytes);
        assert!(matches!(ended, Err(Error::NotARecording)), "{ended:?}");
    }
}

#[test]
fn a_later_version_is_named_with_what_made_it() {
    let header = format!(
        "{{\"recording\":\"ktls-trace-recording\",\"version\":{},\"made_by\":\"9.8.7\",\"x\":1}}\n",
        VERSION + 1
    );
    let (_, ended) = replayed(&chunk::pack(header.as_bytes()).unwrap());
    let error = ended.unwrap_err().to_string();
    assert!(
        error.contains("version 2") && error.contains("9.8.7"),
        "{error}"
    );
}

#[test]
fn an_entry_of_an_unknown_kind_is_damage_not_a_guess() {
    let (recording, _) = small();
    let mut text = String::new();
    MultiGzDecoder::new(recording.as_slice())
        .read_to_string(&mut text)
        .unwrap();
    for (from, to) in [
        ("\"observed\"", "\"dreamt\""),
        ("\"entries\":", "\"entries\":1"),
    ] {
        let changed = chunk::pack(text.replace(from, to).as_bytes()).unwrap();
        let (_, ended) = replayed(&changed);
        assert!(matches!(ended, Err(Error::Damaged { .. })), "{ended:?}");
    }
    let behind = [recording.as_slice(), &chunk::pack(b"{}\n").unwrap()].concat();
    assert!(matches!(replayed(&behind).1, Err(Error::Damaged { .. })));
}

#[test]
fn times_by_which_no_replay_would_end_are_damage() {
    let (recording, _) = small();
    let mut text = String::new();
    MultiGzDecoder::new(recording.as_slice())
        .read_to_string(&mut text)
        .unwrap();
    for (from, to) in [
        ("\"poll_interval_ns\":50000000", "\"poll_interval_ns\":0"),
        ("\"at_ns\":1000040000000", "\"at_ns\":18446744073709551615"),
    ] {
        assert!(text.contains(from), "{from}");
        let changed = chunk::pack(text.replace(from, to).as_bytes()).unwrap();
        let (_, ended) = replayed(&changed);
        assert!(matches!(ended, Err(Error::Damaged { .. })), "{ended:?}");
    }
}

#[test]
fn intervals_that_change_meanwhile_have_to_be_sensible_too() {
    let with = |poll_interval_ns| {
        let folder = Folder::new();
        let path = folder.file();
        let observation = Observation {
            at_ns: 1,
            what: What::Intervals {
                threshold_ns: 1,
                poll_interval_ns,
            },
        };
        live(&[Step::Observe(observation)], options(&path));
        fs::read(path).unwrap()
    };
    assert!(replayed(&with(1)).1.is_ok());
    let (_, ended) = replayed(&with(0));
    assert!(matches!(ended, Err(Error::Damaged { .. })), "{ended:?}");
}

/// Tends a recording until it tells its trouble.
fn trouble(recorder: &mut Recorder) -> super::Trouble {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(trouble) = recorder.tend() {
            return trouble;
        }
        assert!(Instant::now() < deadline, "no trouble");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn tick() -> Observation {
    Observation {
        at_ns: 1,
        what: What::Tick,
    }
}

#[test]
fn a_full_disk_ends_the_recording_not_the_run() {
    let mut recorder = Recorder::create(options(Path::new("/dev/full"))).unwrap();
    recorder.begin(Config::default(), KernelFacts::default());
    recorder.observed(&tick());
    let told = trouble(&mut recorder);
    assert!(told.why.contains("/dev/full"), "{}", told.why);
    assert_eq!(told.missed, 1);
    recorder.observed(&tick());
    assert_eq!(recorder.tend(), None, "told once");
    assert_eq!(recorder.missed(), 2);
    assert_eq!(recorder.close(), None, "told before");
}

#[test]
fn at_its_limit_a_recording_ends_with_saying_so() {
    let folder = Folder::new();
    let limited = Options {
        limit_bytes: 1,
        ..options(&folder.file())
    };
    let mut recorder = Recorder::create(limited).unwrap();
    recorder.begin(Config::default(), KernelFacts::default());
    recorder.observed(&tick());
    let deadline = Instant::now() + Duration::from_secs(10);
    while recorder.tend().is_none() {
        assert!(Instant::now() < deadline, "no limit");
        recorder.observed(&tick());
        recorder.hand_over();
        std::thread::sleep(Duration::from_millis(5));
    }
    let place = "recording".to_owned();
    let (count, total) = (recorder.missed(), recorder.missed());
    assert!(count > 0);
    recorder.told(
        5,
        &Body::Lost(Lost {
            place,
            count,
            total,
        }),
    );
    recorder.observed(&tick());
    assert_eq!(recorder.close(), None);
    let (lines, ended) = replayed(&fs::read(folder.file()).unwrap());
    assert!(matches!(ended, Ok(Replayed::ToTheEnd(end)) if end.full));
    assert!(lines.last().unwrap().contains("\"place\":\"recording\""));
}

#[test]
fn a_recording_is_private_and_never_overwritten() {
    use std::os::unix::fs::PermissionsExt as _;
    let (recording, _) = small();
    let folder = Folder::new();
    let recorder = Recorder::create(options(&folder.file())).unwrap();
    drop(recorder);
    let mode = fs::metadata(folder.file()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    fs::write(folder.file(), &recording).unwrap();
    let error = Recorder::create(options(&folder.file()))
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("run.ktrace") && error.contains("exists"),
        "{error}"
    );
    assert_eq!(fs::read(folder.file()).unwrap(), recording);
    let error = Recorder::create(options(&folder.0)).unwrap_err();
    assert!(error.to_string().contains("not a file"), "{error}");
}
