//! Where members of kernel structures lie, read from BTF by name (`/sys/kernel/btf`).
//!
//! The kernel's BTF is megabytes long, and only some twenty of its 120,000 types are asked for: it is mapped and
//! looked through, not taken apart. [`read`] gives back the [`Layout`] and nothing else.

use std::{
    cell::RefCell,
    collections::HashMap,
    fs::File,
    io::{Read as _, Write as _},
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
};

use btf_rs::{Backend, Btf, BtfType, Type};
use ktls_trace_common::layout::{ABSENT, Bits, Layout};

use super::{
    symbols::HOOKED,
    without::{Reduced, Without},
};

/// Folder of the kernel's BTF.
pub const DIRECTORY: &str = "/sys/kernel/btf";

/// Structures whose members are asked for. One that is missing here takes a walk through all types of its own.
const STRUCTURES: [&str; 14] = [
    "sock",
    "net",
    "inet_connection_sock",
    "tcp_ulp_ops",
    "tcp_sock",
    "tls_context",
    "tls_sw_context_tx",
    "tls_rec",
    "msghdr",
    "sk_buff",
    "tcp_skb_cb",
    "task_struct",
    "nsproxy",
    "uts_namespace",
];

/// How much of the kernel's BTF is copied at once.
const PART_BYTES: usize = 128 * 1024;

/// Why no layout could be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file is missing, unreadable or not BTF.
    #[error("cannot read BTF from {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        source: btf_rs::Error,
    },
}

/// A layout and what it lacks.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// The offsets and positions.
    pub layout: Layout,
    /// Members and arguments that this kernel does not have, as they are named in the source.
    pub missing: Vec<&'static str>,
    /// Whether the BTF of the `tls` module was there (or `tls` is built in).
    pub tls: bool,
    /// The functions among those that are hooked of which BTF knows the arguments: a trampoline can be put there.
    pub functions: HashMap<&'static str, FunctionId>,
}

/// Which function is meant, for the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FunctionId {
    /// Number of its type.
    pub id: u32,
    /// Whether that is in the types of the `tls` module, not in the kernel's own.
    pub of_tls: bool,
}

/// Reads the layout of the running kernel from a folder laid out like [`DIRECTORY`], passing over what is
/// to be done without.
///
/// # Errors
///
/// If `vmlinux` can't be read. A missing `tls` is not an error: its members are then absent.
pub fn read(directory: &Path, without: &Without) -> Result<Resolved, Error> {
    let vmlinux_path = directory.join("vmlinux");
    let vmlinux = map(&vmlinux_path).map_err(|source| Error::Read {
        path: vmlinux_path,
        source,
    })?;
    let tls_path = directory.join("tls");
    let tls = if tls_path.exists() {
        let tls = Btf::from_split_file(&tls_path, &vmlinux).map_err(|source| Error::Read {
            path: tls_path,
            source,
        })?;
        Some(tls)
    } else {
        None
    };
    let ids = RefCell::new(ids_of_known(&vmlinux));
    let types = Types { vmlinux, tls, ids };
    Ok(resolve(&Reduced { types, without }))
}

/// Maps BTF. Before 6.16 the kernel's own can only be read (`btf_sysfs_vmlinux_mmap`): then a copy is mapped.
fn map(path: &Path) -> Result<Btf, btf_rs::Error> {
    Btf::from_file_with_backend(path, Backend::Mmap).or_else(|_| {
        let flags = nix::sys::memfd::MFdFlags::MFD_CLOEXEC;
        let copy = nix::sys::memfd::memfd_create(c"btf", flags).map_err(std::io::Error::from)?;
        let mut copy = File::from(copy);
        let mut types = File::open(path)?;
        // The kernel gives a page at a time. A part of the size of a cache spares fresh memory for the whole.
        let mut part = Vec::with_capacity(PART_BYTES);
        while (&mut types)
            .take(PART_BYTES as u64)
            .read_to_end(&mut part)?
            > 0
        {
            copy.write_all(&part)?;
            part.clear();
        }
        let path = format!("/proc/self/fd/{}", copy.as_raw_fd());
        Btf::from_file_with_backend(path, Backend::Mmap)
    })
}

/// Where a member lies within a structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Distance from the start of the structure in bits.
    pub bit_offset: u32,
    /// Width in bits for a bit-field.
    pub width: Option<u32>,
}

/// Finds members and arguments by name; implemented by the kernel's BTF and by tests.
pub trait Lookup {
    /// Where `path` (`tcp_sock.nonagle`, `net.ipv4.sysctl_tcp_notsent_lowat`) lies.
    fn member(&self, path: &str) -> Option<Place>;
    /// At which position, from 0, a function takes an argument.
    fn argument(&self, function: &str, name: &str) -> Option<u32>;
    /// Which function that is.
    fn function(&self, name: &str) -> Option<FunctionId>;
    /// Whether the types of `tls` are there.
    fn has_tls(&self) -> bool;
}

/// The timer of retransmissions, loss probes and probe0, which was moved and renamed.
fn retransmit_timer(types: &dyn Lookup) -> &'static str {
    let now = "sock.tcp_retransmit_timer";
    match types.member(now) {
        Some(_) => now,
        None => "inet_connection_sock.icsk_retransmit_timer",
    }
}

/// Fills in a [`Layout`] by name.
pub fn resolve(types: &dyn Lookup) -> Resolved {
    let mut missing = Vec::new();
    let mut offset = |path: &'static str| {
        if let Some(Place {
            bit_offset,
            width: None,
        }) = types.member(path)
        {
            bit_offset / 8
        } else {
            missing.push(path);
            ABSENT
        }
    };
    let mut layout = Layout {
        skc_family: offset("sock.__sk_common.skc_family"),
        skc_state: offset("sock.__sk_common.skc_state"),
        skc_dport: offset("sock.__sk_common.skc_dport"),
        skc_num: offset("sock.__sk_common.skc_num"),
        skc_daddr: offset("sock.__sk_common.skc_daddr"),
        skc_rcv_saddr: offset("sock.__sk_common.skc_rcv_saddr"),
        skc_v6_daddr: offset("sock.__sk_common.skc_v6_daddr"),
        skc_v6_rcv_saddr: offset("sock.__sk_common.skc_v6_rcv_saddr"),
        skc_net: offset("sock.__sk_common.skc_net.net"),
        skc_bound_dev_if: offset("sock.__sk_common.skc_bound_dev_if"),
        skc_cookie: offset("sock.__sk_common.skc_cookie"),
        net_inum: offset("net.ns.inum"),
        net_notsent_lowat: offset("net.ipv4.sysctl_tcp_notsent_lowat"),
        sk_wmem_queued: offset("sock.sk_wmem_queued"),
        sk_sndbuf: offset("sock.sk_sndbuf"),
        sk_write_queue: offset("sock.sk_write_queue"),
        sk_tsq_flags: offset("sock.sk_tsq_flags"),
        sk_pacing_status: offset("sock.sk_pacing_status"),
        retransmit_timer: offset(retransmit_timer(types)),
        icsk_pending: offset("inet_connection_sock.icsk_pending"),
        icsk_retransmits: offset("inet_connection_sock.icsk_retransmits"),
        icsk_ulp_ops: offset("inet_connection_sock.icsk_ulp_ops"),
        icsk_ulp_data: offset("inet_connection_sock.icsk_ulp_data"),
        ulp_name: offset("tcp_ulp_ops.name"),
        tcp_write_seq: offset("tcp_sock.write_seq"),
        tcp_snd_nxt: offset("tcp_sock.snd_nxt"),
        tcp_snd_una: offset("tcp_sock.snd_una"),
        tcp_snd_wnd: offset("tcp_sock.snd_wnd"),
        tcp_mss_cache: offset("tcp_sock.mss_cache"),
        tcp_packets_out: offset("tcp_sock.packets_out"),
        tcp_retrans_out: offset("tcp_sock.retrans_out"),
        tcp_sacked_out: offset("tcp_sock.sacked_out"),
        tcp_lost_out: offset("tcp_sock.lost_out"),
        tcp_snd_cwnd: offset("tcp_sock.snd_cwnd"),
        tcp_notsent_lowat: offset("tcp_sock.notsent_lowat"),
        tcp_user_mss: offset("tcp_sock.rx_opt.user_mss"),
        tcp_srtt_us: offset("tcp_sock.srtt_us"),
        tcp_wstamp_ns: offset("tcp_sock.tcp_wstamp_ns"),
        tls_version: offset("tls_context.prot_info.version"),
        tls_cipher_type: offset("tls_context.prot_info.cipher_type"),
        tls_partially_sent_record: offset("tls_context.partially_sent_record"),
        tls_pending_open_record_frags: offset("tls_context.pending_open_record_frags"),
        tls_priv_ctx_tx: offset("tls_context.priv_ctx_tx"),
        tls_encrypt_pending: offset("tls_sw_context_tx.encrypt_pending"),
        tls_tx_list: offset("tls_sw_context_tx.tx_list"),
        tls_rec_size: subtract(
            offset("tls_rec.msg_encrypted.sg.size"),
            offset("tls_rec.list"),
        ),
        msg_flags: offset("msghdr.msg_flags"),
        skb_end_seq: add(offset("sk_buff.cb"), offset("tcp_skb_cb.end_seq")),
        skb_tcp_flags: add(offset("sk_buff.cb"), offset("tcp_skb_cb.tcp_flags")),
        task_nsproxy: offset("task_struct.nsproxy"),
        nsproxy_uts_ns: offset("nsproxy.uts_ns"),
        uts_inum: offset("uts_namespace.ns.inum"),
        ..Layout::ABSENT
    };
    layout.tcp_nonagle = bits(types, "tcp_sock.nonagle");
    layout.tls_tx_conf = bits(types, "tls_context.tx_conf");
    for (place, path) in [
        (layout.tcp_nonagle, "tcp_sock.nonagle"),
        (layout.tls_tx_conf, "tls_context.tx_conf"),
    ] {
        if place == Bits::ABSENT {
            missing.push(path);
        }
    }
    // The change that took async_notify away also let encrypt_pending count from 1.
    let counts_from_0 = types.member("tls_sw_context_tx.async_notify").is_some();
    layout.tls_encrypt_idle = u32::from(!counts_from_0);
    layout.arg_push_sg_flags = types.argument("tls_push_sg", "flags").unwrap_or(ABSENT);
    if layout.arg_push_sg_flags == ABSENT {
        missing.push("tls_push_sg(flags)");
    }
    // Absent since 6.5, where tls_sw_sendmsg took over: nothing is missing then.
    layout.arg_sendpage_flags = types.argument("tls_sw_sendpage", "flags").unwrap_or(ABSENT);
    Resolved {
        layout,
        missing,
        tls: types.has_tls(),
        functions: HOOKED
            .iter()
            .filter_map(|&name| Some((name, types.function(name)?)))
            .collect(),
    }
}

/// A bit-field that lies within one byte, which is what the programs read.
fn bits(types: &dyn Lookup, path: &str) -> Bits {
    types
        .member(path)
        .map(|Place { bit_offset, width }| Bits {
            offset: bit_offset / 8,
            shift: bit_offset % 8,
            width: width.filter(|&width| width > 0).unwrap_or(8),
        })
        .filter(|place| place.shift + place.width <= 8)
        .unwrap_or(Bits::ABSENT)
}

/// Adds two offsets of which either may be absent.
fn add(a: u32, b: u32) -> u32 {
    if a == ABSENT || b == ABSENT {
        ABSENT
    } else {
        a + b
    }
}

/// Subtracts two offsets of which either may be absent.
fn subtract(from: u32, what: u32) -> u32 {
    if from == ABSENT || what == ABSENT {
        ABSENT
    } else {
        from.checked_sub(what).unwrap_or(ABSENT)
    }
}

/// The kernel's types and, if it is loaded, the `tls` module's.
struct Types {
    /// The kernel's own.
    vmlinux: Btf,
    /// The `tls` module's, on top of the kernel's.
    tls: Option<Btf>,
    /// What the kernel's own were asked for already: types by name. Each name takes a walk through all of them.
    ids: RefCell<HashMap<String, Vec<u32>>>,
}

impl Types {
    /// The types of that name, each with the set it is from: the module's, which contains the kernel's, comes first.
    fn named(&self, name: &str) -> impl Iterator<Item = (&Btf, Type)> {
        let of_tls = self.tls.iter().flat_map(move |tls| {
            let ids = ids_of_module(tls, name).into_iter();
            ids.filter_map(move |id| Some((tls, tls.resolve_type_by_id(id).ok()?)))
        });
        // Not before it is known that the module has none.
        let of_kernel = std::iter::once_with(|| self.of_kernel(name)).flatten();
        of_tls.chain(of_kernel.map(|found| (&self.vmlinux, found)))
    }

    /// The kernel's own types of that name.
    fn of_kernel(&self, name: &str) -> Vec<Type> {
        let ids = self.ids_of_kernel(name).into_iter();
        ids.filter_map(|id| self.vmlinux.resolve_type_by_id(id).ok())
            .collect()
    }

    /// Their numbers.
    fn ids_of_kernel(&self, name: &str) -> Vec<u32> {
        let mut known = self.ids.borrow_mut();
        known
            .entry(name.to_owned())
            .or_insert_with(|| self.vmlinux.resolve_ids_by_name(name).unwrap_or_default())
            .clone()
    }
}

/// The kernel's own structures and functions that are asked for anyway, by name, from one walk through all types.
fn ids_of_known(vmlinux: &Btf) -> HashMap<String, Vec<u32>> {
    let names = STRUCTURES.iter().chain(HOOKED);
    let mut ids: HashMap<_, _> = names.map(|&name| (name.to_owned(), Vec::new())).collect();
    let (first, last) = vmlinux.base().type_id_range();
    for id in first..=last {
        let name = match vmlinux.resolve_type_by_id(id) {
            Ok(Type::Struct(found)) => vmlinux.resolve_name(&found),
            Ok(Type::Func(found)) => vmlinux.resolve_name(&found),
            _ => continue,
        };
        if let Ok(name) = name
            && let Some(ids) = ids.get_mut(&name)
        {
            ids.push(id);
        }
    }
    ids
}

/// The numbers of a module's own types of that name, without the kernel's: those are walked through once for each name.
fn ids_of_module(module: &Btf, name: &str) -> Vec<u32> {
    let own = module.split();
    let ids = own.and_then(|own| own.resolve_ids_by_name(name).ok());
    ids.unwrap_or_default()
}

impl Lookup for Types {
    fn member(&self, path: &str) -> Option<Place> {
        let (name, rest) = path.split_once('.')?;
        self.named(name).find_map(|(types, found)| match found {
            Type::Struct(structure) => walk(types, &structure, rest, 0),
            _ => None,
        })
    }

    fn argument(&self, function: &str, name: &str) -> Option<u32> {
        self.named(function).find_map(|(types, found)| {
            let Type::Func(function) = found else {
                return None;
            };
            let Type::FuncProto(proto) = types.resolve_chained_type(&function).ok()? else {
                return None;
            };
            let position = proto.parameters.iter().position(|parameter| {
                types
                    .resolve_name(parameter)
                    .is_ok_and(|found| found == name)
            })?;
            u32::try_from(position).ok()
        })
    }

    fn function(&self, name: &str) -> Option<FunctionId> {
        let is_function = |types: &Btf, id: &u32| {
            let found = types.resolve_type_by_id(*id);
            found.is_ok_and(|found| matches!(found, Type::Func(_)))
        };
        let of_tls = self.tls.as_ref().and_then(|tls| {
            let mut ids = ids_of_module(tls, name).into_iter();
            ids.find(|id| is_function(tls, id))
        });
        if let Some(id) = of_tls {
            return Some(FunctionId { id, of_tls: true });
        }
        let mut of_kernel = self.ids_of_kernel(name).into_iter();
        let id = of_kernel.find(|id| is_function(&self.vmlinux, id))?;
        Some(FunctionId { id, of_tls: false })
    }

    fn has_tls(&self) -> bool {
        self.member("tls_context.prot_info").is_some()
    }
}

/// Finds `path` in a structure, also within its anonymous members.
fn walk(types: &Btf, structure: &btf_rs::Struct, path: &str, base: u32) -> Option<Place> {
    let (name, rest) = match path.split_once('.') {
        Some((name, rest)) => (name, Some(rest)),
        None => (path, None),
    };
    for member in &structure.members {
        let bit_offset = base + member.bit_offset();
        let member_name = types.resolve_name(member).unwrap_or_default();
        if member_name.is_empty() {
            if let Some(inner) = aggregate(types, member)
                && let Some(place) = walk(types, &inner, path, bit_offset)
            {
                return Some(place);
            }
        } else if member_name == name {
            return match rest {
                None => {
                    let width = member.bitfield_size().filter(|&width| width > 0);
                    Some(Place { bit_offset, width })
                }
                Some(rest) => walk(types, &aggregate(types, member)?, rest, bit_offset),
            };
        }
    }
    None
}

/// The structure or union that a member is made of, behind typedefs and qualifiers.
fn aggregate(types: &Btf, member: &btf_rs::Member) -> Option<btf_rs::Struct> {
    let mut found = types.resolve_chained_type(member).ok()?;
    loop {
        found = match found {
            Type::Struct(inner) | Type::Union(inner) => return Some(inner),
            Type::Typedef(inner) => types.resolve_chained_type(&inner).ok()?,
            Type::Const(inner) | Type::Volatile(inner) | Type::Restrict(inner) => {
                types.resolve_chained_type(&inner as &dyn BtfType).ok()?
            }
            _ => return None,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A kernel that has every member at the same place, but for the ones named.
    struct Lacking(&'static [&'static str]);

    impl Lookup for Lacking {
        fn member(&self, path: &str) -> Option<Place> {
            let width = match path {
                "tcp_sock.nonagle" => Some(4),
                "tls_context.tx_conf" => Some(3),
                _ => None,
            };
            (!self.0.contains(&path)).then_some(Place {
                bit_offset: 84,
                width,
            })
        }

        fn argument(&self, function: &str, name: &str) -> Option<u32> {
            (!self.0.contains(&function) && name == "flags").then_some(4)
        }

        fn function(&self, name: &str) -> Option<FunctionId> {
            (!self.0.contains(&name)).then(|| FunctionId {
                id: 7,
                of_tls: name.starts_with("tls_"),
            })
        }

        fn has_tls(&self) -> bool {
            true
        }
    }

    #[test]
    fn everything_found_leaves_nothing_missing() {
        let Resolved {
            layout,
            missing,
            tls,
            functions,
        } = resolve(&Lacking(&[]));
        assert_eq!(missing, Vec::<&str>::new());
        assert!(tls);
        assert_eq!(functions.len(), HOOKED.len());
        assert_eq!(layout.tcp_snd_wnd, 10);
        assert_eq!(
            layout.tcp_nonagle,
            Bits {
                offset: 10,
                shift: 4,
                width: 4
            }
        );
        assert_eq!(layout.skb_end_seq, 20);
        assert_eq!(layout.arg_push_sg_flags, 4);
    }

    #[test]
    fn a_missing_member_is_absent_and_named() {
        let Resolved {
            layout, missing, ..
        } = resolve(&Lacking(&[
            "tcp_sock.notsent_lowat",
            "tcp_skb_cb.end_seq",
            "tcp_sock.nonagle",
        ]));
        assert_eq!(layout.tcp_notsent_lowat, ABSENT);
        assert_eq!(layout.skb_end_seq, ABSENT);
        assert_eq!(layout.tcp_nonagle, Bits::ABSENT);
        assert_eq!(
            missing,
            [
                "tcp_sock.notsent_lowat",
                "tcp_skb_cb.end_seq",
                "tcp_sock.nonagle"
            ]
        );
    }

    #[test]
    fn an_argument_without_a_name_is_absent() {
        let Resolved {
            layout,
            missing,
            functions,
            ..
        } = resolve(&Lacking(&["tls_push_sg"]));
        assert!(!functions.contains_key("tls_push_sg"));
        assert_eq!(layout.arg_push_sg_flags, ABSENT);
        assert_eq!(missing, ["tls_push_sg(flags)"]);
    }

    #[test]
    fn a_folder_without_btf_is_an_error_that_names_the_file() {
        let error = read(Path::new("/nonexistent"), &Without::default())
            .unwrap_err()
            .to_string();
        assert!(error.contains("/nonexistent/vmlinux"), "{error}");
    }
}
