//! Replaces addresses and names, each always by the same stand-in, so that a recording can leave the house
//! and still replays to the same verdicts.
//!
//! Replaced: addresses other than loopback and unspecified ones (by those that documentation and tests are
//! meant to use), names of threads and processes, paths of programs, control groups, what options that were reloaded said. Kept:
//! ports, numbers of processes, threads, inodes, cookies and namespaces, times, and all that TCP and TLS count.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6},
};

use crate::{
    correlate::event::{Changed, Reloaded},
    observe::{Hold, Observation, Process, Sample, SocketState, What},
};

/// Options whose values are numbers and times alone.
const NUMBERS: [&str; 4] = ["threshold", "poll-interval", "pid", "port"];

/// The stand-ins given out so far.
#[derive(Debug, Default)]
pub struct Anonymizer {
    /// For IPv4 addresses.
    v4: HashMap<Ipv4Addr, Ipv4Addr>,
    /// For IPv6 addresses.
    v6: HashMap<Ipv6Addr, Ipv6Addr>,
    /// For names of threads and processes: a thread is often named like its process.
    comms: HashMap<String, String>,
    /// For paths of programs.
    exes: HashMap<String, String>,
    /// For control groups.
    cgroups: HashMap<String, String>,
    /// For values of options: files, addresses, collectors.
    values: HashMap<String, String>,
}

impl Anonymizer {
    /// The observation with stand-ins. Every field is named here, so that a new one can't slip through.
    pub fn observation(&mut self, observation: &Observation) -> Observation {
        let Observation { at_ns, what } = observation;
        let what = match what.clone() {
            What::Refused {
                key,
                process: Process { pid, tid, thread },
                blocking,
                mut hold,
            } => {
                self.hold(&mut hold);
                let thread = stand_in(&mut self.comms, "comm", thread);
                let process = Process { pid, tid, thread };
                What::Refused {
                    key,
                    process,
                    blocking,
                    hold,
                }
            }
            What::PersistFired { key, mut hold } => {
                self.hold(&mut hold);
                What::PersistFired { key, hold }
            }
            What::RetransmitTimeout { key, mut hold } => {
                self.hold(&mut hold);
                What::RetransmitTimeout { key, hold }
            }
            What::Sampled {
                key,
                asked_ns,
                mut sample,
            } => {
                if let Some(sample) = &mut sample {
                    self.sample(sample);
                }
                What::Sampled {
                    key,
                    asked_ns,
                    sample,
                }
            }
            What::ProcessNamed {
                key,
                pid,
                comm,
                exe,
                cgroup,
                netns,
            } => What::ProcessNamed {
                key,
                pid,
                comm: comm.map(|name| stand_in(&mut self.comms, "comm", name)),
                exe: exe.map(|path| stand_in(&mut self.exes, "exe", path)),
                cgroup: cgroup.map(|path| stand_in(&mut self.cgroups, "cgroup", path)),
                netns,
            },
            what @ (What::Resumed { .. }
            | What::Released { .. }
            | What::PersistArmed { .. }
            | What::ZeroWindowProbe { .. }
            | What::Closing { .. }
            | What::Hooks { .. }
            | What::Intervals { .. }
            | What::Clock { .. }
            | What::Tick) => what,
        };
        Observation {
            at_ns: *at_ns,
            what,
        }
    }

    /// A socket whose bytes wait.
    fn hold(&mut self, hold: &mut Hold) {
        let Hold {
            socket,
            send: _,
            push: _,
            writer_pid: _,
        } = hold;
        let SocketState {
            src,
            dst,
            cookie: _,
            netns: _,
            state: _,
            write_seq: _,
            snd_nxt: _,
            snd_una: _,
            snd_wnd: _,
            mss: _,
            interface: _,
            packets_out: _,
            in_flight: _,
            snd_cwnd: _,
            notsent_lowat: _,
            own_lowat: _,
            wmem_queued: _,
            sndbuf: _,
            corked: _,
            nodelay: _,
            persist_pending: _,
            timer_pending: _,
            throttled: _,
            partial_record: _,
            open_record: _,
            tail_psh: _,
            encrypt_pending: _,
            user_mss: _,
            srtt_us: _,
            retransmits: _,
            lost: _,
            retrans: _,
            paced_ns: _,
            tls: _,
        } = socket;
        self.ends(src, dst);
    }

    /// An answer of `sock_diag`.
    fn sample(&mut self, sample: &mut Sample) {
        let Sample {
            src,
            dst,
            cookie: _,
            netns: _,
            interface: _,
            inode: _,
            established: _,
            notsent: _,
            packets_out: _,
            snd_wnd: _,
            mss: _,
            unacked_bytes: _,
            snd_cwnd: _,
            retransmits: _,
            lost: _,
            retrans: _,
            bytes_sent: _,
            wmem_queued: _,
            sndbuf: _,
            timer: _,
            tls: _,
        } = sample;
        self.ends(src, dst);
    }

    /// Options that have changed, with stand-ins for all that may name something.
    pub fn reloaded(&mut self, reloaded: &mut Reloaded) {
        let Reloaded {
            changed,
            needs_restart: _,
        } = reloaded;
        for Changed { option, was, is } in changed {
            if !NUMBERS.contains(&option.as_str()) {
                for value in was.iter_mut().chain(is) {
                    *value = stand_in(&mut self.values, "value", std::mem::take(value));
                }
            }
        }
    }

    /// Both ends of a connection.
    fn ends(&mut self, src: &mut Option<SocketAddr>, dst: &mut Option<SocketAddr>) {
        for end in [src, dst].into_iter().flatten() {
            *end = self.address(*end);
        }
    }

    /// An address; the port stays, and the interface of a link-local one.
    pub fn address(&mut self, address: SocketAddr) -> SocketAddr {
        match address {
            SocketAddr::V4(v4) => (self.v4(*v4.ip()), v4.port()).into(),
            SocketAddr::V6(v6) => {
                SocketAddrV6::new(self.v6(*v6.ip()), v6.port(), v6.flowinfo(), v6.scope_id()).into()
            }
        }
    }

    /// An IPv4 address.
    fn v4(&mut self, ip: Ipv4Addr) -> Ipv4Addr {
        if is_nobodys(IpAddr::V4(ip)) {
            return ip;
        }
        let number = u32::try_from(self.v4.len()).unwrap_or(u32::MAX);
        *self.v4.entry(ip).or_insert_with(|| nth_v4(number))
    }

    /// An IPv6 address; one that maps an IPv4 address stays one.
    fn v6(&mut self, ip: Ipv6Addr) -> Ipv6Addr {
        if is_nobodys(IpAddr::V6(ip)) {
            return ip;
        }
        if let Some(v4) = ip.to_ipv4_mapped() {
            return self.v4(v4).to_ipv6_mapped();
        }
        // 2001:db8::/32, RFC 3849.
        let number = u128::try_from(self.v6.len()).unwrap_or(u128::MAX);
        let next = Ipv6Addr::from_bits(0x2001_0db8 << 96 | (number + 1));
        *self.v6.entry(ip).or_insert(next)
    }
}

/// Whether an address says nothing about anybody.
fn is_nobodys(ip: IpAddr) -> bool {
    ip.is_loopback() || ip.is_unspecified()
}

/// The addresses of documentation (RFC 5737), 254 of each network; then those of benchmarks (RFC 2544), then the
/// reserved ones (RFC 1112), so that there is one for every address there is.
fn nth_v4(number: u32) -> Ipv4Addr {
    const DOCUMENTATION: [[u8; 3]; 3] = [[192, 0, 2], [198, 51, 100], [203, 0, 113]];
    const BENCHMARKS: u32 = 0xc612_0000;
    const RESERVED: u32 = 0xf000_0000;
    let network = usize::try_from(number / 254).unwrap_or(usize::MAX);
    if let Some(&[a, b, c]) = DOCUMENTATION.get(network) {
        let host = u8::try_from(number % 254 + 1).unwrap_or(u8::MAX);
        return Ipv4Addr::new(a, b, c, host);
    }
    let number = number - 3 * 254;
    Ipv4Addr::from_bits(if number < 1 << 17 {
        BENCHMARKS + number
    } else {
        RESERVED.saturating_add(number - (1 << 17))
    })
}

/// The stand-in for a name: `KIND-N` in the order of appearance.
fn stand_in(given: &mut HashMap<String, String>, kind: &str, name: String) -> String {
    let number = given.len() + 1;
    given
        .entry(name)
        .or_insert_with(|| format!("{kind}-{number}"))
        .clone()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_has_one_stand_in_and_keeps_its_port() {
        let mut anonymizer = Anonymizer::default();
        let mut shown = |text| anonymizer.address(address(text)).to_string();
        assert_eq!(shown("10.1.2.3:443"), "192.0.2.1:443");
        assert_eq!(shown("10.1.2.4:5"), "192.0.2.2:5");
        assert_eq!(shown("10.1.2.3:9"), "192.0.2.1:9");
        assert_eq!(shown("[2a00::7]:443"), "[2001:db8::1]:443");
    }

    #[test]
    fn a_mapped_address_is_the_one_it_maps() {
        let mut anonymizer = Anonymizer::default();
        let mapped = anonymizer.address(address("[::ffff:10.1.2.3]:1"));
        let plain = anonymizer.address(address("10.1.2.3:1"));
        assert_eq!(mapped.ip().to_canonical(), plain.ip());
        assert_eq!(mapped.to_string(), "[::ffff:192.0.2.1]:1");
    }

    #[test]
    fn loopback_says_nothing_about_anybody_and_stays() {
        let mut anonymizer = Anonymizer::default();
        for kept in ["127.0.0.1:1", "[::1]:1", "0.0.0.0:1", "[::]:1"] {
            assert_eq!(anonymizer.address(address(kept)), address(kept));
        }
    }

    #[test]
    fn stand_ins_never_meet() {
        let numbers = (0..2000).chain(131_000..133_000);
        let given: HashSet<_> = numbers.clone().map(nth_v4).collect();
        assert_eq!(given.len(), numbers.count());
        assert_eq!(nth_v4(761), Ipv4Addr::new(203, 0, 113, 254));
        assert_eq!(nth_v4(762), Ipv4Addr::new(198, 18, 0, 0));
        assert_eq!(nth_v4(762 + (1 << 17)), Ipv4Addr::new(240, 0, 0, 0));
    }
}
