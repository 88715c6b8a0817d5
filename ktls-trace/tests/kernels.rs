//! Plan and layout on recorded kernels (`tests/kernels`, whose README says what a recording has), and on kernels that are
//! made from one by taking something away.

#![expect(clippy::unwrap_used, reason = "helpers of tests are tests")]

use std::{
    cell::RefCell,
    collections::BTreeSet,
    env, fs,
    path::{Path, PathBuf},
    process,
};

use ktls_trace::kernel::{
    Facts, Plan,
    btf::{self, FunctionId, Lookup, Place, Resolved},
    modules::Tls,
    plan::{Choice, Kind, Observable, Obstacle},
    symbols::{HOOKED, RECOGNISED, Symbols},
    without::Without,
};
use ktls_trace_common::layout::{ABSENT, Bits, Layout};

/// Kernels that were booted to record them.
const BOOTED: &[&str] = &[
    "6.1",
    "6.12",
    "6.12-trixie",
    "6.12-bookworm",
    "6.12-rt",
    "7.2",
    "7.3",
];

/// A recorded kernel that is built without kernel TLS.
const WITHOUT_TLS: &str = "5.10";

fn folder(kernel: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/kernels")
        .join(kernel)
}

fn text(kernel: &str, name: &str) -> String {
    let path = folder(kernel).join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The tables of symbols, as a test may change them before they are read.
struct Tables {
    kallsyms: String,
    traceable: Option<String>,
}

impl Tables {
    fn of(kernel: &str) -> Self {
        Self {
            kallsyms: text(kernel, "kallsyms"),
            traceable: fs::read_to_string(folder(kernel).join("available_filter_functions")).ok(),
        }
    }

    fn read(&self) -> Symbols {
        let mut symbols = Symbols::from_kallsyms(self.kallsyms.as_bytes()).unwrap();
        if let Some(traceable) = &self.traceable {
            symbols.note_traceable(traceable.as_bytes()).unwrap();
        }
        symbols
    }
}

fn layout(kernel: &str) -> Result<Resolved, String> {
    btf::read(&folder(kernel).join("btf"), &Without::default()).map_err(|error| error.to_string())
}

fn facts(kernel: &str) -> Facts {
    with(kernel, &Tables::of(kernel), layout(kernel))
}

/// A recorded kernel with other symbols or another layout.
fn with(kernel: &str, tables: &Tables, layout: Result<Resolved, String>) -> Facts {
    let release = text(kernel, "release").trim().to_owned();
    Facts::assemble(release, Ok(tables.read()), layout, false)
}

/// `observation: hooks`, a line each.
fn chosen(plan: &Plan) -> String {
    let line = |choice: &Choice| {
        let symbols: Vec<&str> = choice.hooks.iter().map(|hook| hook.symbol).collect();
        format!("{:?}: {}\n", choice.observable, symbols.join(" "))
    };
    plan.choices.iter().map(line).collect()
}

/// The hooks of one observation.
fn hooks_for(plan: &Plan, observable: Observable) -> Vec<&'static str> {
    plan.choices
        .iter()
        .filter(|choice| choice.observable == observable)
        .flat_map(|choice| &choice.hooks)
        .map(|hook| hook.symbol)
        .collect()
}

/// Some of the layout: where the bytes and the gates of a socket lie, in bytes, bit-fields as `byte:bit+width`.
fn offsets(resolved: &Resolved) -> String {
    let layout = &resolved.layout;
    let bits = |place: Bits| format!("{}:{}+{}", place.offset, place.shift, place.width);
    format!(
        "wmem_queued {} sndbuf {} write_seq {} snd_nxt {} snd_una {} snd_wnd {} mss {} lowat {} nonagle {} tx_conf {} flags #{}",
        layout.sk_wmem_queued,
        layout.sk_sndbuf,
        layout.tcp_write_seq,
        layout.tcp_snd_nxt,
        layout.tcp_snd_una,
        layout.tcp_snd_wnd,
        layout.tcp_mss_cache,
        layout.tcp_notsent_lowat,
        bits(layout.tcp_nonagle),
        bits(layout.tls_tx_conf),
        layout.arg_push_sg_flags,
    )
}

/// What is expected of a kernel besides [`EVERYWHERE`].
struct Expected {
    kernel: &'static str,
    release: &'static str,
    send: &'static [&'static str],
    offsets: &'static str,
}

/// Hooks for each observation but the send's, the same on every kernel so far.
const EVERYWHERE: &str = "\
Record: tls_push_sg
Refusal: sk_stream_wait_memory
PersistArmed: sk_reset_timer
PersistFired: tcp_send_probe0
ZeroWindowProbe: tcp_xmit_probe_skb
RetransmitTimeout: tcp_enter_loss
Release: tcp_event_new_data_sent
Close: tls_sk_proto_close
";

const SINCE_6_5: &[&str] = &["tls_sw_sendmsg"];

/// Every recorded kernel with kernel TLS. Offsets differ from build to build, within a series too.
const EXPECTED: &[Expected] = &[
    Expected {
        kernel: "6.1",
        release: "6.1.0-56-cloud-amd64",
        send: &["tls_sw_sendmsg", "tls_sw_sendpage"],
        offsets: "wmem_queued 336 sndbuf 332 write_seq 1852 snd_nxt 1476 snd_una 1508 snd_wnd 1572 mss 1580 lowat 1856 nonagle 1637:0+4 tx_conf 20:0+3 flags #4",
    },
    Expected {
        kernel: "6.12",
        release: "6.12.118+deb13-cloud-amd64",
        send: SINCE_6_5,
        offsets: "wmem_queued 376 sndbuf 372 write_seq 1636 snd_nxt 1716 snd_una 1720 snd_wnd 1492 mss 1496 lowat 1460 nonagle 1689:0+4 tx_conf 20:0+3 flags #4",
    },
    Expected {
        kernel: "6.12-trixie",
        release: "6.12.117+deb13-cloud-amd64",
        send: SINCE_6_5,
        offsets: "wmem_queued 376 sndbuf 372 write_seq 1636 snd_nxt 1716 snd_una 1720 snd_wnd 1492 mss 1496 lowat 1460 nonagle 1689:0+4 tx_conf 20:0+3 flags #4",
    },
    Expected {
        kernel: "6.12-bookworm",
        release: "6.12.117+deb12-cloud-amd64",
        send: SINCE_6_5,
        offsets: "wmem_queued 376 sndbuf 372 write_seq 1636 snd_nxt 1716 snd_una 1720 snd_wnd 1492 mss 1496 lowat 1460 nonagle 1689:0+4 tx_conf 20:0+3 flags #4",
    },
    Expected {
        kernel: "6.12-rt",
        release: "6.12.118+deb13-rt-amd64",
        send: SINCE_6_5,
        offsets: "wmem_queued 496 sndbuf 492 write_seq 1956 snd_nxt 2036 snd_una 2040 snd_wnd 1796 mss 1800 lowat 1764 nonagle 2009:0+4 tx_conf 20:0+3 flags #4",
    },
    Expected {
        kernel: "6.12-arm64",
        release: "6.12.117+deb13-arm64",
        send: SINCE_6_5,
        offsets: "wmem_queued 376 sndbuf 372 write_seq 1636 snd_nxt 1716 snd_una 1720 snd_wnd 1492 mss 1496 lowat 1460 nonagle 1689:0+4 tx_conf 20:0+3 flags #4",
    },
    Expected {
        kernel: "7.2",
        release: "7.2.13+deb14-cloud-amd64",
        send: SINCE_6_5,
        offsets: "wmem_queued 376 sndbuf 584 write_seq 1668 snd_nxt 1772 snd_una 1776 snd_wnd 1476 mss 1480 lowat 1444 nonagle 1745:0+4 tx_conf 20:0+3 flags #4",
    },
    Expected {
        kernel: "7.3-rc",
        release: "7.3-amd64",
        send: SINCE_6_5,
        offsets: "wmem_queued 376 sndbuf 584 write_seq 1668 snd_nxt 1772 snd_una 1776 snd_wnd 1476 mss 1480 lowat 1444 nonagle 1745:0+4 tx_conf 20:0+3 flags #4",
    },
    Expected {
        kernel: "7.3",
        release: "7.3.4+deb13-cloud-amd64",
        send: SINCE_6_5,
        offsets: "wmem_queued 376 sndbuf 584 write_seq 1668 snd_nxt 1772 snd_una 1776 snd_wnd 1476 mss 1480 lowat 1444 nonagle 1745:0+4 tx_conf 20:0+3 flags #4",
    },
];

#[test]
fn every_recorded_kernel_has_the_hooks_and_the_layout_that_are_known_of_it() {
    for expected in EXPECTED {
        let Expected {
            kernel,
            release,
            send,
            offsets: known,
        } = expected;
        let facts = facts(kernel);
        assert_eq!(facts.release, *release, "{kernel}");
        assert_eq!(facts.tls, Tls::Present, "{kernel}");
        let plan = Plan::new(&facts, &[]);
        assert_eq!(plan.obstacle, None, "{kernel}");
        assert_eq!(
            chosen(&plan),
            format!("Send: {}\n{EVERYWHERE}", send.join(" ")),
            "{kernel}"
        );
        for hook in plan.hooks() {
            let of_tls = hook.symbol.starts_with("tls_");
            match hook.kind {
                Kind::Fentry(function) => assert_eq!(function.of_tls, of_tls, "{kernel} {hook}"),
                Kind::Kprobe => assert!(!hook.hot, "{kernel}: BTF does not know {hook}"),
            }
        }
        let resolved = facts.layout.unwrap();
        assert_eq!(resolved.missing, Vec::<&str>::new(), "{kernel}");
        assert!(resolved.tls, "{kernel}");
        assert_eq!(offsets(&resolved), *known, "{kernel}");
    }
}

#[test]
fn the_types_alone_tell_which_hooks_there_are() {
    for Expected { kernel, .. } in EXPECTED {
        let layout = layout(kernel);
        let by_types = Symbols::from_types(&layout.as_ref().unwrap().functions);
        let by_types = Facts::assemble(text(kernel, "release"), Ok(by_types), layout, false);
        assert_eq!(by_types.tls, Tls::Present, "{kernel}");
        assert_eq!(
            Plan::new(&by_types, &[]),
            Plan::new(&facts(kernel), &[]),
            "{kernel}"
        );
    }
}

#[test]
fn every_folder_is_a_kernel_that_is_tested() {
    let mut tested: Vec<&str> = EXPECTED.iter().map(|expected| expected.kernel).collect();
    tested.push(WITHOUT_TLS);
    tested.sort_unstable();
    let mut found: Vec<String> = fs::read_dir(folder(""))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
        .collect();
    found.sort_unstable();
    assert_eq!(found, tested);
}

#[test]
fn on_a_kernel_that_was_booted_every_hook_can_be_traced_and_an_address_is_recognised() {
    for kernel in BOOTED {
        let facts = facts(kernel);
        let symbols = facts.symbols.as_ref().unwrap();
        let hooks = Plan::new(&facts, &[]).hooks();
        assert!(!hooks.is_empty(), "{kernel}");
        for hook in hooks {
            let function = symbols.get(hook.symbol).unwrap();
            assert_eq!(function.traceable, Some(true), "{kernel} {}", hook.symbol);
            let (start, end) = function.range.unwrap();
            assert!(end - start > 16, "{kernel} {}", hook.symbol);
            assert_eq!(symbols.name_of(end - 1), Some(hook.symbol), "{kernel}");
            let module = hook.symbol.starts_with("tls_").then_some("tls");
            assert_eq!(function.module.as_deref(), module, "{kernel}");
        }
        // Who releases a record is told by these.
        for caller in ["tcp_rcv_established", "tcp_write_wakeup", "tcp_close"] {
            let (start, _) = symbols.get(caller).unwrap().range.unwrap();
            assert_eq!(symbols.name_of(start + 16), Some(caller), "{kernel}");
        }
    }
}

#[test]
fn without_addresses_hooks_are_chosen_by_name() {
    for kernel in ["6.12-arm64", "7.3-rc"] {
        let facts = facts(kernel);
        assert!(!facts.symbols.as_ref().unwrap().shows_addresses());
        assert_eq!(Plan::new(&facts, &[]).unserved(), [], "{kernel}");
    }
}

#[test]
fn a_kernel_built_without_tls_waits_for_it_and_lacks_only_what_the_module_has() {
    let facts = facts(WITHOUT_TLS);
    assert!(text(WITHOUT_TLS, "config").contains("# CONFIG_TLS is not set"));
    assert_eq!(facts.tls, Tls::NotLoaded);
    let plan = Plan::new(&facts, &[]);
    assert!(plan.waits_for_tls);
    assert_eq!(plan.obstacle, None);
    let resolved = facts.layout.unwrap();
    assert_eq!(resolved.missing, ["tls_push_sg(flags)"]);
}

#[test]
fn the_configuration_of_a_kernel_with_hooks_has_what_hooks_take() {
    for Expected { kernel, .. } in EXPECTED {
        let config = text(kernel, "config");
        for needed in [
            "CONFIG_BPF_SYSCALL=y",
            "CONFIG_KPROBES=y",
            "CONFIG_KALLSYMS=y",
            "CONFIG_DEBUG_INFO_BTF=y",
            "CONFIG_DEBUG_INFO_BTF_MODULES=y",
            "CONFIG_TLS=m",
        ] {
            assert!(
                config.lines().any(|line| line == needed),
                "{kernel} {needed}"
            );
        }
        let real_time = config.lines().any(|line| line == "CONFIG_PREEMPT_RT=y");
        assert_eq!(real_time, *kernel == "6.12-rt", "{kernel}");
    }
}

#[test]
fn where_tcp_check_probe_timer_is_a_symbol_the_timer_is_seen_there() {
    let mut tables = Tables::of("6.12");
    tables.kallsyms += "ffffffffa0000000 t tcp_check_probe_timer\n";
    let plan = |tables: &Tables| Plan::new(&with("6.12", tables, layout("6.12")), &[]);
    // A name that can't be traced is not enough.
    assert_eq!(
        hooks_for(&plan(&tables), Observable::PersistArmed),
        ["sk_reset_timer"]
    );
    tables
        .traceable
        .as_mut()
        .unwrap()
        .push_str("tcp_check_probe_timer\n");
    assert_eq!(
        hooks_for(&plan(&tables), Observable::PersistArmed),
        ["tcp_check_probe_timer"]
    );
}

/// A copy of a kernel's BTF that a test may damage; removed afterwards.
struct Copy(PathBuf);

impl Copy {
    fn of(kernel: &str, test: &str) -> Self {
        let copy = env::temp_dir().join(format!("ktls-trace-{}-{test}", process::id()));
        fs::create_dir_all(&copy).unwrap();
        for name in ["vmlinux", "tls"] {
            fs::copy(folder(kernel).join("btf").join(name), copy.join(name)).unwrap();
        }
        Self(copy)
    }

    /// Calls a member something else, so that it is gone.
    fn rename(&self, file: &str, member: &str) {
        let path = self.0.join(file);
        let mut blob = fs::read(&path).unwrap();
        let name = format!("\0{member}\0").into_bytes();
        let at = blob
            .windows(name.len())
            .position(|window| window == name)
            .unwrap();
        blob[at + 1] = b'~';
        fs::write(&path, blob).unwrap();
    }

    fn read(&self) -> Result<Resolved, String> {
        btf::read(&self.0, &Without::default()).map_err(|error| error.to_string())
    }

    fn plan(&self, kernel: &str) -> Plan {
        Plan::new(&with(kernel, &Tables::of(kernel), self.read()), &[])
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

#[test]
fn without_btf_of_tls_hooks_remain_and_its_members_are_named_missing() {
    let copy = Copy::of("6.12", "no-tls");
    fs::remove_file(copy.0.join("tls")).unwrap();
    let resolved = copy.read().unwrap();
    // The kernel itself knows `struct tls_context`, by way of its drivers, but not the module's functions.
    assert_eq!(
        resolved.missing,
        [
            "tls_rec.msg_encrypted.sg.size",
            "tls_rec.list",
            "tls_push_sg(flags)"
        ]
    );
    let plan = copy.plan("6.12");
    assert_eq!(plan.obstacle, None);
    assert_eq!(plan.unserved(), []);
    for hook in plan.hooks() {
        let of_tls = hook.symbol.starts_with("tls_");
        assert_eq!(hook.kind != Kind::Kprobe, hook.hot && !of_tls, "{hook}");
    }
}

#[test]
fn a_module_that_repeats_the_kernels_types_agrees_with_them() {
    // pahole left `struct sock` and others in the module of 7.3, which is asked first.
    let copy = Copy::of("7.3", "repeated");
    fs::remove_file(copy.0.join("tls")).unwrap();
    let without = copy.read().unwrap().layout;
    let with = layout("7.3").unwrap().layout;
    assert_eq!(
        Layout {
            arg_push_sg_flags: with.arg_push_sg_flags,
            tls_rec_size: with.tls_rec_size,
            ..without
        },
        with
    );
}

#[test]
fn without_a_needed_member_no_hook_is_used_and_it_is_named() {
    let copy = Copy::of("7.3", "needed");
    copy.rename("vmlinux", "write_seq");
    // The module has types of its own there.
    fs::remove_file(copy.0.join("tls")).unwrap();
    let plan = copy.plan("7.3");
    assert_eq!(
        plan.obstacle,
        Some(Obstacle::NoMember("tcp_sock.write_seq"))
    );
    assert_eq!(plan.hooks(), []);
}

#[test]
fn without_an_optional_member_only_its_fact_is_missing() {
    let copy = Copy::of("6.12", "optional");
    copy.rename("vmlinux", "sk_tsq_flags");
    copy.rename("vmlinux", "nonagle");
    let resolved = copy.read().unwrap();
    assert_eq!(resolved.missing, ["sock.sk_tsq_flags", "tcp_sock.nonagle"]);
    assert_eq!(resolved.layout.sk_tsq_flags, ABSENT);
    assert_eq!(resolved.layout.tcp_nonagle, Bits::ABSENT);
    assert_eq!(
        resolved.layout.tcp_snd_wnd,
        layout("6.12").unwrap().layout.tcp_snd_wnd
    );
    let plan = copy.plan("6.12");
    assert_eq!((plan.obstacle.clone(), plan.unserved()), (None, vec![]));
}

#[test]
fn damaged_btf_is_no_btf_and_the_file_is_named() {
    let copy = Copy::of("6.12", "damaged");
    let path = copy.0.join("vmlinux");
    let blob = fs::read(&path).unwrap();
    fs::write(&path, &blob[..blob.len() / 2]).unwrap();
    let Some(Obstacle::NoBtf(why)) = copy.plan("6.12").obstacle else {
        panic!("half a file is taken for whole");
    };
    assert!(why.contains("vmlinux"), "{why}");
}

/// Notes what is asked for.
#[derive(Default)]
struct Asked {
    members: RefCell<BTreeSet<String>>,
    functions: RefCell<BTreeSet<String>>,
}

impl Lookup for Asked {
    fn member(&self, path: &str) -> Option<Place> {
        self.members.borrow_mut().insert(path.to_owned());
        None
    }

    fn argument(&self, function: &str, _: &str) -> Option<u32> {
        self.functions.borrow_mut().insert(function.to_owned());
        None
    }

    fn function(&self, name: &str) -> Option<FunctionId> {
        self.functions.borrow_mut().insert(name.to_owned());
        None
    }

    fn has_tls(&self) -> bool {
        true
    }
}

#[test]
fn a_recording_has_everything_that_the_layout_and_the_plan_ask_for() {
    let wanted = text("", "wanted");
    let wanted: BTreeSet<&str> = wanted.lines().collect();
    let asked = Asked::default();
    btf::resolve(&asked);
    let missing = |line: &str| (!wanted.contains(line)).then(|| line.to_owned());
    let members = asked.members.into_inner();
    let functions = asked.functions.into_inner();
    let structures = members.iter().filter_map(|path| {
        let (structure, _) = path.rsplit_once('.').unwrap();
        missing(&format!("structure {structure}")).and(missing(&format!("member {path}")))
    });
    let functions = functions
        .iter()
        .map(String::as_str)
        .chain(HOOKED.iter().chain(RECOGNISED).copied())
        .filter_map(|name| missing(&format!("function {name}")));
    assert_eq!(
        structures.chain(functions).collect::<Vec<_>>(),
        Vec::<String>::new(),
        "add them to tests/kernels/wanted and record the kernels anew"
    );
}
