//! The kernel's functions by name (`/proc/kallsyms`) and which of them can be probed
//! (`available_filter_functions`).
//!
//! Only the functions of [`HOOKED`] and [`RECOGNISED`] are kept: the tables have hundreds of thousands of rows.

use std::{
    collections::{BTreeMap, HashMap},
    fs::File,
    io::{self, BufRead, BufReader},
    path::Path,
    sync::{Arc, LazyLock},
};

use super::btf::FunctionId;

/// Where the kernel shows its functions, and to whoever may see them where they are.
const KALLSYMS: &str = "/proc/kallsyms";

/// The row after the last of the kernel's own functions that stay (`include/asm-generic/sections.h`).
const END_OF_TEXT: &[u8] = b"_etext";

/// Functions that hooks are put on.
pub const HOOKED: &[&str] = &[
    "tls_sw_sendmsg",
    "tls_sw_sendpage",
    "tls_push_sg",
    "tls_sk_proto_close",
    "sk_stream_wait_memory",
    "tcp_check_probe_timer",
    "sk_reset_timer",
    "tcp_send_probe0",
    "tcp_xmit_probe_skb",
    "tcp_enter_loss",
    "tcp_event_new_data_sent",
];

/// Functions that only have to be recognised in a stack.
pub const RECOGNISED: &[&str] = &[
    "tcp_rcv_established",
    "tcp_rcv_state_process",
    "tcp_write_wakeup",
    "tcp_tsq_handler",
    "tcp_pace_kick",
    "tcp_tsq_write",
    "tcp_tsq_workfn",
    "tcp_tasklet_func",
    "tcp_release_cb",
    "tcp_sendmsg_locked",
    "tcp_sendpage_locked",
    "do_tcp_sendpages",
    "do_tcp_setsockopt",
    "tls_sw_sendmsg_locked",
    "__tcp_close",
    "tcp_close",
    "tcp_shutdown",
    "tcp_send_fin",
    "inet_shutdown",
];

/// A function of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// First address and the address after the last, where the kernel shows addresses.
    pub range: Option<(u64, u64)>,
    /// The module it belongs to; `None`: the kernel itself.
    pub module: Option<String>,
    /// Whether it can be traced; `None` if the kernel does not say.
    pub traceable: Option<bool>,
}

/// The functions that matter here, by name.
#[derive(Clone, Debug, Default)]
pub struct Symbols {
    /// What was found.
    functions: BTreeMap<&'static str, Function>,
}

impl Symbols {
    /// Reads the running kernel's tables.
    ///
    /// # Errors
    ///
    /// If `/proc/kallsyms` can't be read. That the list of traceable functions can't be read is
    /// not an error: [`Function::traceable`] is then unknown.
    pub fn read() -> io::Result<Self> {
        let mut symbols = Self::from_kallsyms(BufReader::new(File::open(KALLSYMS)?))?;
        for tracing in ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"] {
            let path = Path::new(tracing).join("available_filter_functions");
            if let Ok(file) = File::open(path) {
                symbols.note_traceable(BufReader::new(file))?;
                break;
            }
        }
        Ok(symbols)
    }

    /// The functions of which the kernel's types tell, without addresses.
    pub fn from_types(functions: &HashMap<&'static str, FunctionId>) -> Self {
        let function = |(&name, id): (&&'static str, &FunctionId)| {
            let module = id.of_tls.then(|| "tls".to_owned());
            let function = Function {
                range: None,
                module,
                traceable: None,
            };
            (name, function)
        };
        Self {
            functions: functions.iter().map(function).collect(),
        }
    }

    /// Reads a table in the format of `/proc/kallsyms`.
    ///
    /// # Errors
    ///
    /// If reading fails. Lines of another form are passed over.
    pub fn from_kallsyms(table: impl BufRead) -> io::Result<Self> {
        Self::from_rows(table, None)
    }

    /// The same without the functions of modules, which come last. For stacks they are not needed: what a module sends goes
    /// through TCP's functions, and the kernel is spared making half of the table.
    ///
    /// # Errors
    ///
    /// As [`Symbols::from_kallsyms`].
    pub fn of_core(table: impl BufRead) -> io::Result<Self> {
        Self::from_rows(table, Some(END_OF_TEXT))
    }

    /// Reads rows, up to one with this name.
    fn from_rows(mut table: impl BufRead, last: Option<&[u8]>) -> io::Result<Self> {
        let wanted: HashMap<&[u8], &'static str> = HOOKED
            .iter()
            .chain(RECOGNISED)
            .map(|name| (name.as_bytes(), *name))
            .collect();
        let mut starts = Vec::new();
        let mut found = Vec::new();
        let mut line = Vec::new();
        // Among 160,000 rows a string for each would be most of the work.
        while next_line(&mut table, &mut line)? {
            let mut words = line
                .split(u8::is_ascii_whitespace)
                .filter(|word| !word.is_empty());
            let (Some(address), Some(b"t" | b"T" | b"w" | b"W"), Some(name)) =
                (words.next(), words.next(), words.next())
            else {
                continue;
            };
            let Some(address) = hexadecimal(address) else {
                continue;
            };
            starts.push(address);
            if last == Some(name) {
                break;
            }
            if let Some(name) = wanted.get(name) {
                let module = words.next().map(|module| {
                    String::from_utf8_lossy(module)
                        .trim_matches(['[', ']'])
                        .to_owned()
                });
                found.push((*name, address, module));
            }
        }
        let ends = ends(found.iter().map(|&(_, start, _)| start), &starts);
        let functions = found
            .into_iter()
            .map(|(name, start, module)| {
                let end = ends.get(&start).copied();
                let range = end.filter(|_| start != 0).map(|end| (start, end));
                (
                    name,
                    Function {
                        range,
                        module,
                        traceable: None,
                    },
                )
            })
            .collect();
        Ok(Self { functions })
    }

    /// Marks the functions that a table in the format of `available_filter_functions` names.
    ///
    /// # Errors
    ///
    /// If reading fails.
    pub fn note_traceable(&mut self, mut table: impl BufRead) -> io::Result<()> {
        for function in self.functions.values_mut() {
            function.traceable = Some(false);
        }
        let mut line = Vec::new();
        while next_line(&mut table, &mut line)? {
            let name = line
                .split(u8::is_ascii_whitespace)
                .next()
                .and_then(|name| str::from_utf8(name).ok());
            if let Some(function) = name.and_then(|name| self.functions.get_mut(name)) {
                function.traceable = Some(true);
            }
        }
        Ok(())
    }

    /// The function of that name.
    pub fn get(&self, name: &str) -> Option<&Function> {
        self.functions.get(name)
    }

    /// Whether a probe can be put on the function, as far as the kernel says.
    pub fn can_probe(&self, name: &str) -> bool {
        self.get(name)
            .is_some_and(|function| function.traceable != Some(false))
    }

    /// The name of the function that an address lies in, if it is one of those kept.
    pub fn name_of(&self, address: u64) -> Option<&'static str> {
        self.functions.iter().find_map(|(name, function)| {
            let (start, end) = function.range?;
            (start..end).contains(&address).then_some(*name)
        })
    }

    /// Whether the kernel shows addresses (`kptr_restrict`).
    pub fn shows_addresses(&self) -> bool {
        self.functions
            .values()
            .any(|function| function.range.is_some())
    }
}

/// The running kernel's functions with their addresses, read when they are first asked for: to make the table's 160,000
/// lines takes the kernel longer than to attach the hooks.
#[derive(Clone)]
pub struct Addresses(Arc<LazyLock<Symbols, Reading>>);

/// What reads them.
type Reading = Box<dyn FnOnce() -> Symbols + Send>;

impl Addresses {
    /// Those that were read already.
    pub fn known(symbols: Symbols) -> Self {
        Self(Arc::new(LazyLock::new(Box::new(|| symbols))))
    }

    /// Those that the kernel shows to whoever calls this. Reading takes no capability any more.
    pub fn of_running_kernel() -> Self {
        let table = File::open(KALLSYMS);
        let read = || {
            let symbols = table.and_then(|table| Symbols::of_core(BufReader::new(table)));
            symbols.unwrap_or_else(|error| {
                tracing::warn!("{KALLSYMS}: {error}; who lets held bytes go stays unknown");
                Symbols::default()
            })
        };
        Self(Arc::new(LazyLock::new(Box::new(read))))
    }

    /// The functions; none if they could not be read. It takes its time once.
    pub fn get(&self) -> &Symbols {
        &self.0
    }
}

/// Whether the kernel shows addresses to this thread (`kptr_restrict`), from the first lines of the table.
pub fn addresses_are_shown() -> bool {
    File::open(KALLSYMS).is_ok_and(|table| show_addresses(BufReader::new(table)))
}

/// The same of a table, of which a buffer's fill is read.
fn show_addresses(mut table: impl BufRead) -> bool {
    let begun = table.fill_buf().unwrap_or_default();
    let address = |line: &[u8]| hexadecimal(line.split(u8::is_ascii_whitespace).next()?);
    begun
        .split(|&byte| byte == b'\n')
        .any(|line| address(line).is_some_and(|address| address != 0))
}

/// Reads the next line into a buffer that is used again; `false` at the end.
fn next_line(table: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    Ok(table.read_until(b'\n', line)? > 0)
}

/// A number of up to 16 hexadecimal digits.
fn hexadecimal(digits: &[u8]) -> Option<u64> {
    u64::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()
}

/// Where each of the wanted functions ends, by where it begins: at the next of all beginnings, which come in any order.
fn ends(wanted: impl Iterator<Item = u64>, starts: &[u64]) -> HashMap<u64, u64> {
    let mut wanted: Vec<u64> = wanted.collect();
    wanted.sort_unstable();
    wanted.dedup();
    let mut ends = HashMap::new();
    for &start in starts {
        // The last wanted function before this one; those before it end at it, or sooner.
        let before = wanted.partition_point(|&begin| begin < start);
        if let Some(begin) = before.checked_sub(1).and_then(|index| wanted.get(index)) {
            let end = ends.entry(*begin).or_insert(start);
            *end = start.min(*end);
        }
    }
    ends
}

#[cfg(test)]
mod tests {
    use super::*;

    const KALLSYMS: &str = "\
ffffffff81000100 T tcp_send_probe0
ffffffff81000200 t tcp_event_new_data_sent
ffffffff81000200 t __pfx_tcp_rcv_established
ffffffff81000210 T tcp_rcv_established
ffffffff81000300 d some_data
ffffffff81000400 T next
ffffffff81000500 T _etext
ffffffffc0001000 t tls_push_sg\t[tls]
ffffffffc0001800 t tls_sw_sendmsg.cold\t[tls]
";

    fn symbols() -> Symbols {
        Symbols::from_kallsyms(KALLSYMS.as_bytes()).unwrap()
    }

    #[test]
    fn an_address_is_found_in_the_function_it_lies_in() {
        let symbols = symbols();
        assert_eq!(
            symbols.name_of(0xffff_ffff_8100_0210),
            Some("tcp_rcv_established")
        );
        assert_eq!(
            symbols.name_of(0xffff_ffff_8100_03ff),
            Some("tcp_rcv_established")
        );
        assert_eq!(symbols.name_of(0xffff_ffff_8100_0400), None);
        assert_eq!(symbols.name_of(0xffff_ffff_c000_1010), Some("tls_push_sg"));
    }

    #[test]
    fn the_core_ends_before_modules() {
        let core = Symbols::of_core(KALLSYMS.as_bytes()).unwrap();
        assert_eq!(
            core.name_of(0xffff_ffff_8100_0210),
            Some("tcp_rcv_established")
        );
        assert!(core.get("tls_push_sg").is_none());
        let without_end = KALLSYMS.replace("_etext", "etext");
        let whole = Symbols::of_core(without_end.as_bytes()).unwrap();
        assert!(whole.get("tls_push_sg").is_some());
    }

    #[test]
    fn twins_with_a_prefix_or_suffix_are_not_the_function() {
        assert!(symbols().get("tls_sw_sendmsg").is_none());
        assert_eq!(
            symbols().get("tls_push_sg").unwrap().module.as_deref(),
            Some("tls")
        );
    }

    #[test]
    fn hidden_addresses_leave_the_names() {
        let hidden = "0000000000000000 T tcp_send_probe0\n0000000000000000 T tcp_rcv_established\n";
        let symbols = Symbols::from_kallsyms(hidden.as_bytes()).unwrap();
        assert!(symbols.can_probe("tcp_send_probe0"));
        assert!(!symbols.shows_addresses());
        assert_eq!(symbols.name_of(0), None);
    }

    #[test]
    fn whether_addresses_are_shown_is_seen_by_the_first_lines() {
        let per_processor = "0000000000000000 A fixed_percpu_data\n";
        let table = |second: &str| format!("{per_processor}{second} A cpu_debug_store\n");
        assert!(show_addresses(table("0000000000001000").as_bytes()));
        assert!(!show_addresses(table("0000000000000000").as_bytes()));
        assert!(!show_addresses(&b""[..]));
    }

    #[test]
    fn a_function_that_cannot_be_traced_is_not_probed() {
        let mut symbols = symbols();
        assert!(symbols.can_probe("tcp_event_new_data_sent"));
        symbols
            .note_traceable(&b"tcp_send_probe0\ntls_push_sg [tls]\n"[..])
            .unwrap();
        assert!(symbols.can_probe("tls_push_sg"));
        assert!(!symbols.can_probe("tcp_event_new_data_sent"));
    }
}
