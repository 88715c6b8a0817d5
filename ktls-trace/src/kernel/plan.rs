//! Which hook serves which observation on this kernel. Nothing else knows a symbol's name.

use std::fmt;

use super::{Facts, btf::FunctionId, modules::Tls};

/// Something that can be observed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Observable {
    /// A send begins, with its flags.
    Send,
    /// A complete record is handed to TCP, with its flags.
    Record,
    /// A writer is refused, at which gate.
    Refusal,
    /// The persist timer is armed.
    PersistArmed,
    /// The persist timer fires.
    PersistFired,
    /// A zero-window probe is sent.
    ZeroWindowProbe,
    /// The retransmission timer fires.
    RetransmitTimeout,
    /// Held bytes leave, and by which path.
    Release,
    /// The socket is closed by its owner.
    Close,
}

impl fmt::Display for Observable {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(match self {
            Self::Send => "send begins",
            Self::Record => "complete record handed to TCP",
            Self::Refusal => "writer refused",
            Self::PersistArmed => "persist timer armed",
            Self::PersistFired => "persist timer fires",
            Self::ZeroWindowProbe => "zero-window probe sent",
            Self::RetransmitTimeout => "retransmission timer fires",
            Self::Release => "held bytes leave",
            Self::Close => "socket closed",
        })
    }
}

/// Which hooks are attached, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probes {
    /// The hot ones while there is a stall, and a while after it.
    Auto,
    /// The hot ones never.
    Light,
    /// All, always.
    Full,
}

impl Probes {
    /// Its name, as on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Light => "light",
            Self::Full => "full",
        }
    }
}

/// How a program is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// By a trampoline, for which BTF has to know the function; where the kernel has none after all, by a kprobe.
    Fentry(FunctionId),
    /// By a kprobe.
    Kprobe,
}

impl Kind {
    /// Its name, as the kernel's documentation has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fentry(_) => "fentry",
            Self::Kprobe => "kprobe",
        }
    }
}

impl serde::Serialize for Kind {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// A kernel function that a program is called for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Hook {
    /// The program for a kprobe in the object file; that for a trampoline has `fentry_` before it.
    pub program: &'static str,
    /// The kernel function.
    pub symbol: &'static str,
    /// How the program is called.
    pub kind: Kind,
    /// Whether a healthy host runs it all the time. Such hooks can wait until there is a stall to look at;
    /// the others are run seldom or never while nothing is wrong.
    pub hot: bool,
}

impl fmt::Display for Hook {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.symbol)
    }
}

/// A hook on a function that a healthy host seldom runs.
const fn cold(symbol: &'static str) -> Hook {
    Hook {
        program: symbol,
        symbol,
        kind: Kind::Kprobe,
        hot: false,
    }
}

/// The same on one that it runs all the time.
const fn hot(symbol: &'static str) -> Hook {
    Hook {
        hot: true,
        ..cold(symbol)
    }
}

/// One way to serve an observation: all of its hooks are needed.
struct Way {
    /// What it serves.
    observable: Observable,
    /// The hooks it takes.
    hooks: &'static [Hook],
    /// Why it is chosen, or what is special about it.
    why: &'static str,
    /// Whether it is used beside the ways before it instead of only in their place.
    also: bool,
}

/// Every way, best first for each observation.
const WAYS: &[Way] = &[
    Way {
        observable: Observable::Send,
        hooks: &[hot("tls_sw_sendmsg")],
        why: "every kTLS send; since 6.5 also sendfile and splice",
        also: false,
    },
    Way {
        observable: Observable::Send,
        hooks: &[hot("tls_sw_sendpage")],
        why: "sendfile and splice before 6.5",
        also: true,
    },
    Way {
        observable: Observable::Record,
        hooks: &[hot("tls_push_sg")],
        why: "the flag word that reaches TCP",
        also: false,
    },
    Way {
        observable: Observable::Refusal,
        hooks: &[cold("sk_stream_wait_memory")],
        why: "both gates, blocking and non-blocking writers",
        also: false,
    },
    Way {
        observable: Observable::PersistArmed,
        hooks: &[hot("tcp_check_probe_timer")],
        why: "a symbol on this kernel",
        also: false,
    },
    Way {
        observable: Observable::PersistArmed,
        hooks: &[hot("sk_reset_timer")],
        why: "tcp_check_probe_timer is inlined here: the timer is seen being armed, for sockets under suspicion",
        also: false,
    },
    Way {
        observable: Observable::PersistFired,
        hooks: &[cold("tcp_send_probe0")],
        why: "runs when the timer expires, rare on a healthy host",
        also: false,
    },
    Way {
        observable: Observable::ZeroWindowProbe,
        hooks: &[cold("tcp_xmit_probe_skb")],
        why: "tells a shut window from held bytes",
        also: false,
    },
    Way {
        observable: Observable::RetransmitTimeout,
        hooks: &[cold("tcp_enter_loss")],
        why: "tells a network that loses segments, rare on a healthy host",
        also: false,
    },
    Way {
        observable: Observable::Release,
        hooks: &[hot("tcp_event_new_data_sent")],
        why: "with its stack, for sockets under suspicion",
        also: false,
    },
    Way {
        observable: Observable::Close,
        hooks: &[cold("tls_sk_proto_close")],
        why: "ends an episode at once",
        also: false,
    },
];

/// Every observation, in the order of the causal chain.
const OBSERVABLES: &[Observable] = &[
    Observable::Send,
    Observable::Record,
    Observable::Refusal,
    Observable::PersistArmed,
    Observable::PersistFired,
    Observable::ZeroWindowProbe,
    Observable::RetransmitTimeout,
    Observable::Release,
    Observable::Close,
];

/// How an observation is served.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Choice {
    /// What is observed.
    pub observable: Observable,
    /// The hooks; empty if there is none on this kernel.
    pub hooks: Vec<Hook>,
    /// Why these, or what is lost without.
    pub why: String,
}

impl Choice {
    /// Has its hot hooks called by trampolines where BTF knows the function. The others are seldom run, and a kprobe is
    /// not passed over for having been preempted.
    fn by_trampoline(mut self, facts: &Facts) -> Self {
        if let Ok(layout) = &facts.layout {
            for hook in self.hooks.iter_mut().filter(|hook| hook.hot) {
                if let Some(&function) = layout.functions.get(hook.symbol) {
                    hook.kind = Kind::Fentry(function);
                }
            }
        }
        self
    }

    /// What is lost when its hooks are not attached.
    pub fn loss(&self) -> &'static str {
        without(self.observable)
    }
}

/// What keeps the hooks from being used at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Obstacle {
    /// Nothing is known about the layout of a socket.
    #[error("no BTF, so the layout of a socket is not known ({0})")]
    NoBtf(String),
    /// The functions' names are not known.
    #[error("the kernel's symbols cannot be read ({0})")]
    NoSymbols(String),
    /// A member without which a snapshot says nothing.
    #[error("this kernel's BTF lacks {0}, without which a socket can't be read")]
    NoMember(&'static str),
}

/// Members without which the programs could not tell a kTLS socket or its unsent bytes.
const NEEDED: &[&str] = &[
    "inet_connection_sock.icsk_ulp_ops",
    "inet_connection_sock.icsk_ulp_data",
    "tcp_ulp_ops.name",
    "tcp_sock.write_seq",
    "tcp_sock.snd_nxt",
    "tcp_sock.snd_una",
    "tcp_sock.snd_wnd",
    "tcp_sock.packets_out",
    "tcp_sock.mss_cache",
];

/// Which hook serves which observation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// One choice per observation, in the order of the causal chain.
    pub choices: Vec<Choice>,
    /// What keeps every hook from being used.
    pub obstacle: Option<Obstacle>,
    /// Kernel TLS is not loaded: the hooks wait for it.
    pub waits_for_tls: bool,
    /// Members and arguments that this kernel does not have.
    pub missing: Vec<&'static str>,
}

impl Plan {
    /// Chooses for this kernel. `without` names functions to leave alone, as if the kernel did not
    /// have them.
    pub fn new(facts: &Facts, without: &[String]) -> Self {
        let waits_for_tls = facts.tls == Tls::NotLoaded;
        let can_probe = |hook: &Hook| {
            let known = facts
                .symbols
                .as_ref()
                .is_ok_and(|symbols| symbols.can_probe(hook.symbol));
            // The functions of a module that is not loaded yet are in no table.
            let expected = waits_for_tls && hook.symbol.starts_with("tls_");
            (known || expected) && !without.iter().any(|name| name == hook.symbol)
        };
        let choices = OBSERVABLES
            .iter()
            .map(|&observable| choose(observable, waits_for_tls, &can_probe))
            .map(|choice| choice.by_trampoline(facts))
            .collect();
        Self {
            choices,
            obstacle: obstacle(facts),
            waits_for_tls,
            missing: facts
                .layout
                .as_ref()
                .map_or_else(|_| Vec::new(), |layout| layout.missing.clone()),
        }
    }

    /// The hooks to attach; none if there is an obstacle.
    pub fn hooks(&self) -> Vec<Hook> {
        if self.obstacle.is_some() {
            return Vec::new();
        }
        self.choices
            .iter()
            .flat_map(|choice| choice.hooks.iter().copied())
            .collect()
    }

    /// The observations that no hook serves.
    pub fn unserved(&self) -> Vec<Observable> {
        let lost = |choice: &&Choice| self.obstacle.is_some() || choice.hooks.is_empty();
        self.choices
            .iter()
            .filter(lost)
            .map(|choice| choice.observable)
            .collect()
    }
}

/// Chooses the ways that serve one observation.
fn choose(
    observable: Observable,
    waits_for_tls: bool,
    can_probe: &dyn Fn(&Hook) -> bool,
) -> Choice {
    let mut hooks = Vec::new();
    let mut why = Vec::new();
    for way in WAYS.iter().filter(|way| way.observable == observable) {
        // Which of the send functions a module has is known once it is there.
        let optional = waits_for_tls && way.also;
        if (hooks.is_empty() || way.also) && !optional && way.hooks.iter().all(can_probe) {
            hooks.extend_from_slice(way.hooks);
            why.push(way.why);
        }
    }
    let why = if hooks.is_empty() {
        without(observable).to_owned()
    } else {
        why.join("; ")
    };
    Choice {
        observable,
        hooks,
        why,
    }
}

/// What is lost when nothing serves an observation.
fn without(observable: Observable) -> &'static str {
    match observable {
        Observable::Send => "not observable here: whether the flag came from splice stays unknown",
        Observable::Record => {
            "not observable here: whether a record was complete and pushed with MSG_MORE stays unknown"
        }
        Observable::Refusal => "not observable here: stalls are found by asking sock_diag only",
        Observable::PersistArmed => "not observable here: sock_diag shows the timer",
        Observable::PersistFired => {
            "not observable here: sock_diag shows the timer; a window that shuts while nothing is held back is not noticed"
        }
        Observable::ZeroWindowProbe => {
            "not observable here: a shut window is told by its size alone"
        }
        Observable::RetransmitTimeout => {
            "not observable here: a lossy network is noticed only for sockets under suspicion"
        }
        Observable::Release => "not observable here: who lets held bytes go stays unknown",
        Observable::Close => "not observable here: sock_diag tells that a socket is gone",
    }
}

/// What keeps every hook from being used, if anything does.
fn obstacle(facts: &Facts) -> Option<Obstacle> {
    let layout = match &facts.layout {
        Ok(layout) => layout,
        Err(error) => return Some(Obstacle::NoBtf(error.clone())),
    };
    if let Err(error) = &facts.symbols {
        return Some(Obstacle::NoSymbols(error.clone()));
    }
    NEEDED
        .iter()
        .copied()
        .find(|name| layout.missing.contains(name))
        .map(Obstacle::NoMember)
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, fmt::Write as _};

    use ktls_trace_common::layout::Layout;

    use super::*;
    use crate::kernel::{btf::Resolved, symbols::Symbols};

    /// A kernel with these functions and everything in BTF.
    fn kernel(functions: &[&str]) -> Facts {
        let mut table = String::new();
        for (number, name) in functions.iter().enumerate() {
            writeln!(table, "{:016x} T {name}", 0x1000 + 0x100 * number).unwrap();
        }
        table += "0000000000100000 T end\n";
        Facts {
            release: "test".to_owned(),
            symbols: Ok(Symbols::from_kallsyms(table.as_bytes()).unwrap()),
            layout: Ok(Resolved {
                layout: Layout::ABSENT,
                missing: Vec::new(),
                tls: true,
                functions: HashMap::new(),
            }),
            tls: Tls::Present,
        }
    }

    const SINCE_6_5: &[&str] = &[
        "tls_sw_sendmsg",
        "tls_push_sg",
        "tls_sk_proto_close",
        "sk_stream_wait_memory",
        "sk_reset_timer",
        "tcp_send_probe0",
        "tcp_xmit_probe_skb",
        "tcp_enter_loss",
        "tcp_event_new_data_sent",
    ];

    fn symbols_of(plan: &Plan, observable: Observable) -> Vec<&'static str> {
        let choice = plan
            .choices
            .iter()
            .find(|choice| choice.observable == observable)
            .unwrap();
        choice.hooks.iter().map(|hook| hook.symbol).collect()
    }

    #[test]
    fn a_kernel_with_everything_serves_every_observation() {
        let plan = Plan::new(&kernel(SINCE_6_5), &[]);
        assert_eq!(plan.unserved(), []);
        assert_eq!(symbols_of(&plan, Observable::Send), ["tls_sw_sendmsg"]);
    }

    #[test]
    fn what_btf_knows_is_called_by_a_trampoline_and_the_rest_by_a_kprobe() {
        let mut facts = kernel(SINCE_6_5);
        let function = FunctionId {
            id: 7,
            of_tls: true,
        };
        let layout = facts.layout.as_mut().unwrap();
        layout.functions.insert("tls_push_sg", function);
        for hook in Plan::new(&facts, &[]).hooks() {
            let expected = match hook.symbol {
                "tls_push_sg" => Kind::Fentry(function),
                _ => Kind::Kprobe,
            };
            assert_eq!(hook.kind, expected, "{hook}");
        }
    }

    #[test]
    fn before_6_5_sendpage_is_hooked_beside_sendmsg() {
        let functions = [SINCE_6_5, &["tls_sw_sendpage"]].concat();
        let plan = Plan::new(&kernel(&functions), &[]);
        let symbols = symbols_of(&plan, Observable::Send);
        assert!(symbols.contains(&"tls_sw_sendmsg") && symbols.contains(&"tls_sw_sendpage"));
    }

    #[test]
    fn tcp_check_probe_timer_is_used_where_it_is_a_symbol_and_its_stand_in_elsewhere() {
        let inlined = Plan::new(&kernel(SINCE_6_5), &[]);
        assert_eq!(
            symbols_of(&inlined, Observable::PersistArmed),
            ["sk_reset_timer"]
        );
        let functions = [SINCE_6_5, &["tcp_check_probe_timer"]].concat();
        let symbol = Plan::new(&kernel(&functions), &[]);
        assert_eq!(
            symbols_of(&symbol, Observable::PersistArmed),
            ["tcp_check_probe_timer"]
        );
    }

    #[test]
    fn a_missing_function_costs_only_its_own_observation() {
        let plan = Plan::new(&kernel(SINCE_6_5), &["tls_push_sg".to_owned()]);
        assert_eq!(plan.unserved(), [Observable::Record]);
        let record = plan
            .choices
            .iter()
            .find(|c| c.observable == Observable::Record)
            .unwrap();
        assert!(record.why.contains("stays unknown"));
    }

    #[test]
    fn without_btf_there_is_no_hook_at_all_and_the_reason_is_named() {
        let mut facts = kernel(SINCE_6_5);
        facts.layout = Err("cannot read BTF from /sys/kernel/btf/vmlinux".to_owned());
        let plan = Plan::new(&facts, &[]);
        assert_eq!(plan.hooks(), []);
        assert_eq!(plan.unserved().len(), OBSERVABLES.len());
        assert!(
            plan.obstacle
                .unwrap()
                .to_string()
                .contains("/sys/kernel/btf/vmlinux")
        );
    }

    #[test]
    fn a_needed_member_that_is_gone_is_an_obstacle_and_another_is_not() {
        let mut facts = kernel(SINCE_6_5);
        let resolved = |missing| {
            Ok(Resolved {
                layout: Layout::ABSENT,
                missing,
                tls: true,
                functions: HashMap::new(),
            })
        };
        facts.layout = resolved(vec!["sock.sk_tsq_flags"]);
        assert_eq!(Plan::new(&facts, &[]).obstacle, None);
        facts.layout = resolved(vec!["tcp_sock.write_seq"]);
        assert_eq!(
            Plan::new(&facts, &[]).obstacle,
            Some(Obstacle::NoMember("tcp_sock.write_seq"))
        );
    }

    #[test]
    fn before_tls_is_loaded_its_hooks_are_expected() {
        let functions: Vec<_> = SINCE_6_5
            .iter()
            .copied()
            .filter(|name| !name.starts_with("tls_"))
            .collect();
        let mut facts = kernel(&functions);
        assert_eq!(Plan::new(&facts, &[]).unserved().len(), 3);
        facts.tls = Tls::NotLoaded;
        let plan = Plan::new(&facts, &[]);
        assert!(plan.waits_for_tls);
        assert_eq!(plan.unserved(), []);
    }
}
