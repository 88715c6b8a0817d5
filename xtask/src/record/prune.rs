//! Cuts a kernel's types down to what a recording needs: the structures it reads with all their members, and the arguments
//! of the functions it hooks. What they are made of stays as an outline, what they point at becomes `void`.
//!
//! The result is real BTF, a kernel's own and a module's on top, so that reading it tests the reader.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result};

use super::{
    raw_btf::{Part, RawType, Rest, TypeSet, kind},
    wanted::Wanted,
};

/// How much of a type is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Depth {
    /// Name and size, so that whoever contains it stays whole.
    Outline,
    /// Members and what they are made of.
    Full,
}

/// Pruned blobs.
#[derive(Debug)]
pub(crate) struct Pruned {
    /// A kernel's own types.
    pub(crate) vmlinux: Vec<u8>,
    /// The `tls` module's, if it was given.
    pub(crate) tls: Option<Vec<u8>>,
}

/// Prunes a kernel's types and the `tls` module's. Whatever of `wanted` is not there is passed over.
pub(crate) fn prune(vmlinux: &TypeSet, tls: Option<&TypeSet>, wanted: &Wanted) -> Result<Pruned> {
    let mut keep = Keep {
        vmlinux,
        tls,
        depths: BTreeMap::new(),
        members: &wanted.members,
    };
    for path in &wanted.structures {
        keep.structure(path, Depth::Full);
    }
    for (structure, _) in &wanted.members {
        keep.structure(structure, Depth::Outline);
    }
    for (id, one) in keep.all() {
        if one.kind == kind::FUNC && wanted.functions.contains(&one.name) {
            keep.visit(id, Depth::Full);
        }
    }
    keep.write()
}

/// What is kept so far.
struct Keep<'a> {
    vmlinux: &'a TypeSet,
    tls: Option<&'a TypeSet>,
    /// By old id.
    depths: BTreeMap<u32, Depth>,
    /// Structure and member: what even an outline keeps.
    members: &'a BTreeSet<(String, String)>,
}

impl<'a> Keep<'a> {
    fn all(&self) -> Vec<(u32, &'a RawType)> {
        [Some(self.vmlinux), self.tls]
            .into_iter()
            .flatten()
            .flat_map(|set| (set.first_id..).zip(&set.types))
            .collect()
    }

    /// The type of that id; `None` for `void`, or an id past the end.
    fn get(&self, id: u32) -> Option<&'a RawType> {
        let set = match self.tls {
            Some(tls) if id >= tls.first_id => tls,
            _ => self.vmlinux,
        };
        set.types.get(id.checked_sub(set.first_id)? as usize)
    }

    /// Keeps the structure at the end of a path such as `sock.__sk_common`, and those on the way.
    fn structure(&mut self, path: &str, depth: Depth) {
        let mut names = path.split('.');
        let first = names.next().unwrap_or_default();
        let mut found: Vec<u32> = self
            .all()
            .into_iter()
            .filter(|(_, one)| one.kind == kind::STRUCT && one.name == first)
            .map(|(id, _)| id)
            .collect();
        for name in names {
            found = found
                .into_iter()
                .filter_map(|id| self.member(id, name))
                .collect();
        }
        for id in found {
            self.visit(id, depth);
        }
    }

    /// Whether a member of a type that is kept to this depth is kept.
    fn keeps(&self, one: &RawType, part: &Part, depth: Depth) -> bool {
        let named = || (one.name.clone(), part.name.clone());
        depth == Depth::Full || self.members.contains(&named())
    }

    /// The structure that a member is, also of an anonymous member.
    fn member(&self, id: u32, name: &str) -> Option<u32> {
        let Rest::Parts(parts) = &self.get(id)?.rest else {
            return None;
        };
        parts.iter().find_map(|part| {
            let of = self.aggregate(part.of)?;
            if part.name.is_empty() {
                self.member(of, name)
            } else {
                (part.name == name).then_some(of)
            }
        })
    }

    /// The struct or union behind typedefs and qualifiers.
    fn aggregate(&self, id: u32) -> Option<u32> {
        let one = self.get(id)?;
        match one.kind {
            kind::STRUCT | kind::UNION => Some(id),
            kind::TYPEDEF | kind::CONST | kind::VOLATILE | kind::RESTRICT | kind::TYPE_TAG => {
                self.aggregate(one.size_or_type)
            }
            _ => None,
        }
    }

    fn visit(&mut self, id: u32, depth: Depth) {
        let Some(one) = self.get(id) else {
            return;
        };
        if self.depths.get(&id).is_some_and(|known| *known >= depth) {
            return;
        }
        self.depths.insert(id, depth);
        match (&one.rest, one.kind) {
            (Rest::Parts(parts), kind::FUNC_PROTO) => {
                self.visit(one.size_or_type, Depth::Outline);
                for part in parts {
                    self.visit(part.of, Depth::Outline);
                }
            }
            (Rest::Parts(parts), _) => {
                for part in parts {
                    if !self.keeps(one, part, depth) {
                        continue;
                    }
                    // The reader looks through anonymous members.
                    let inner = if part.name.is_empty() {
                        Depth::Full
                    } else {
                        Depth::Outline
                    };
                    self.visit(part.of, inner);
                }
            }
            (Rest::Array { element, index, .. }, _) => {
                self.visit(*element, Depth::Outline);
                self.visit(*index, Depth::Outline);
            }
            (
                _,
                kind::TYPEDEF
                | kind::CONST
                | kind::VOLATILE
                | kind::RESTRICT
                | kind::TYPE_TAG
                | kind::FUNC,
            ) => self.visit(one.size_or_type, depth),
            // Where a pointer leads is cut.
            _ => {}
        }
    }

    /// Numbers what is kept anew and encodes it. All pointers become one: that to `void`.
    fn write(&self) -> Result<Pruned> {
        let mut new_ids: BTreeMap<u32, u32> = BTreeMap::from([(0, 0)]);
        let mut pointer = None;
        let mut kept = [Vec::new(), Vec::new()];
        let boundary = self.vmlinux.end();
        for (next, id) in (1..).zip(self.distinct()) {
            let one = self.get(id).context("a type that is kept has gone")?;
            if one.kind == kind::PTR {
                pointer = Some(next);
            }
            new_ids.insert(id, next);
            kept[usize::from(id >= boundary)].push(id);
        }
        for id in self.depths.keys() {
            if self.get(*id).is_some_and(|one| one.kind == kind::PTR) {
                new_ids.extend(pointer.map(|pointer| (*id, pointer)));
            }
        }
        let rewritten = |ids: &[u32]| -> Result<Vec<RawType>> {
            ids.iter().map(|id| self.rewrite(*id, &new_ids)).collect()
        };
        let [base, split] = &kept;
        let (vmlinux, strings) = TypeSet::encode(&rewritten(base)?, &[])?;
        let tls = match self.tls {
            Some(_) => Some(TypeSet::encode(&rewritten(split)?, &strings)?.0),
            None => None,
        };
        Ok(Pruned { vmlinux, tls })
    }

    /// What is kept, in the order of ids, with the first pointer standing for all.
    fn distinct(&self) -> Vec<u32> {
        let is_pointer = |id: &u32| self.get(*id).is_some_and(|one| one.kind == kind::PTR);
        let first = self.depths.keys().copied().find(is_pointer);
        let mut ids: Vec<u32> = self.depths.keys().copied().collect();
        ids.retain(|id| !is_pointer(id) || Some(*id) == first);
        ids
    }

    fn rewrite(&self, id: u32, new_ids: &BTreeMap<u32, u32>) -> Result<RawType> {
        let whole = self.get(id).context("a type that is kept has gone")?;
        let mut one = whole.clone();
        let new = |old: u32| {
            new_ids
                .get(&old)
                .copied()
                .with_context(|| format!("{id} refers to {old}, which is not kept"))
        };
        let depth = *self.depths.get(&id).context("a type has no depth")?;
        match &mut one.rest {
            Rest::Parts(parts) if one.kind == kind::FUNC_PROTO => {
                one.size_or_type = new(one.size_or_type)?;
                for Part { of, .. } in parts {
                    *of = new(*of)?;
                }
            }
            Rest::Parts(parts) => {
                parts.retain(|part| self.keeps(whole, part, depth));
                for Part { of, .. } in parts.iter_mut() {
                    *of = new(*of)?;
                }
                one.vlen = u16::try_from(parts.len()).context("too many members")?;
            }
            Rest::Array { element, index, .. } => {
                *element = new(*element)?;
                *index = new(*index)?;
            }
            Rest::Values(values) => {
                values.clear();
                one.vlen = 0;
            }
            Rest::Words(_) | Rest::Variables(_) => match one.kind {
                kind::PTR => one.size_or_type = 0,
                kind::TYPEDEF
                | kind::CONST
                | kind::VOLATILE
                | kind::RESTRICT
                | kind::TYPE_TAG
                | kind::FUNC => one.size_or_type = new(one.size_or_type)?,
                _ => {}
            },
        }
        Ok(one)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A type without members.
    fn plain(name: &str, kind: u8, size_or_type: u32, words: &[u32]) -> RawType {
        RawType {
            name: name.to_owned(),
            kind,
            kind_flag: false,
            vlen: 0,
            size_or_type,
            rest: Rest::Words(words.to_vec()),
        }
    }

    /// A struct, union or prototype.
    fn parts(name: &str, kind: u8, size_or_type: u32, parts: &[(&str, u32, u32)]) -> RawType {
        RawType {
            vlen: u16::try_from(parts.len()).unwrap(),
            rest: Rest::Parts(
                parts
                    .iter()
                    .map(|(name, of, offset)| Part {
                        name: (*name).to_owned(),
                        of: *of,
                        offset: *offset,
                    })
                    .collect(),
            ),
            ..plain(name, kind, size_or_type, &[])
        }
    }

    /// A kernel in which `sock` contains `common` and points at itself and at `proto`.
    fn vmlinux() -> TypeSet {
        let types = [
            plain("unrelated", kind::INT, 8, &[64]),
            plain("int", kind::INT, 4, &[32]),
            parts("proto", kind::STRUCT, 4, &[("close", 2, 0)]),
            plain("", kind::PTR, 3, &[]),
            parts(
                "common",
                kind::STRUCT,
                8,
                &[("family", 2, 0), ("net", 2, 32)],
            ),
            parts("lock", kind::STRUCT, 4, &[("owner", 2, 0)]),
            parts("", kind::UNION, 4, &[("a", 2, 0), ("b", 2, 0)]),
            plain("", kind::PTR, 9, &[]),
            parts(
                "sock",
                kind::STRUCT,
                40,
                &[
                    ("__common", 5, 0),
                    ("lock", 6, 64),
                    ("", 7, 96),
                    ("proto", 4, 128),
                    ("next", 8, 192),
                ],
            ),
        ];
        let (blob, _) = TypeSet::encode(&types, &[]).unwrap();
        TypeSet::decode(&blob).unwrap()
    }

    /// A module with a function that takes a `sock`.
    fn tls(base: &TypeSet) -> TypeSet {
        let types = [
            parts("", kind::FUNC_PROTO, 2, &[("sk", 8, 0), ("flags", 2, 0)]),
            plain("tls_push_sg", kind::FUNC, 10, &[]),
            plain("tls_other", kind::FUNC, 10, &[]),
        ];
        let (blob, _) = TypeSet::encode(&types, &base.strings).unwrap();
        TypeSet::decode_split(&blob, base).unwrap()
    }

    fn wanted() -> Wanted {
        Wanted::parse("structure sock\nfunction tls_push_sg\n").unwrap()
    }

    fn pruned() -> (TypeSet, TypeSet) {
        let base = vmlinux();
        let module = tls(&base);
        let Pruned { vmlinux, tls } = prune(&base, Some(&module), &wanted()).unwrap();
        let vmlinux = TypeSet::decode(&vmlinux).unwrap();
        let tls = TypeSet::decode_split(&tls.unwrap(), &vmlinux).unwrap();
        (vmlinux, tls)
    }

    fn find<'a>(set: &'a TypeSet, name: &str) -> &'a RawType {
        set.types.iter().find(|one| one.name == name).unwrap()
    }

    #[test]
    fn what_is_encoded_decodes_to_the_same() {
        let set = vmlinux();
        let (blob, strings) = TypeSet::encode(&set.types, &[]).unwrap();
        assert_eq!(TypeSet::decode(&blob).unwrap().types, set.types);
        let module = tls(&set);
        let (blob, _) = TypeSet::encode(&module.types, &strings).unwrap();
        let again = TypeSet::decode_split(&blob, &set).unwrap();
        assert_eq!(again.types, module.types);
        assert_eq!(again.first_id, 10);
    }

    #[test]
    fn a_kept_structure_keeps_every_member_and_the_outline_of_what_it_contains() {
        let (vmlinux, _) = pruned();
        let sock = find(&vmlinux, "sock");
        let Rest::Parts(members) = &sock.rest else {
            panic!("{sock:?}");
        };
        let offsets: Vec<(&str, u32)> = members
            .iter()
            .map(|part| (part.name.as_str(), part.offset))
            .collect();
        assert_eq!(
            offsets,
            [
                ("__common", 0),
                ("lock", 64),
                ("", 96),
                ("proto", 128),
                ("next", 192)
            ]
        );
        // Contained: the size stays, the members go, but for an anonymous one's.
        assert_eq!(find(&vmlinux, "lock").size_or_type, 4);
        assert_eq!(find(&vmlinux, "lock").vlen, 0);
        assert_eq!(find(&vmlinux, "common").vlen, 0);
        let union = vmlinux.types.iter().find(|one| one.kind == kind::UNION);
        assert_eq!(union.unwrap().vlen, 2);
        // Pointed at, or unrelated: gone.
        let names: Vec<&str> = vmlinux.types.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(names, ["int", "", "common", "lock", "", "sock"]);
        let pointers = vmlinux.types.iter().filter(|one| one.kind == kind::PTR);
        assert_eq!(
            pointers.map(|one| one.size_or_type).collect::<Vec<_>>(),
            [0]
        );
    }

    #[test]
    fn one_member_of_an_outline_can_be_kept() {
        let wanted = Wanted::parse("member sock.lock\n").unwrap();
        let Pruned { vmlinux, .. } = prune(&vmlinux(), None, &wanted).unwrap();
        let kept = TypeSet::decode(&vmlinux).unwrap();
        let sock = find(&kept, "sock");
        assert_eq!((sock.vlen, sock.size_or_type), (1, 40));
        let Rest::Parts(members) = &sock.rest else {
            panic!("{sock:?}");
        };
        assert_eq!((members[0].name.as_str(), members[0].offset), ("lock", 64));
        assert_eq!(find(&kept, "lock").vlen, 0);
    }

    #[test]
    fn a_path_keeps_the_structure_at_its_end() {
        let base = vmlinux();
        let wanted = Wanted::parse("structure sock.__common\n").unwrap();
        let Pruned { vmlinux, tls } = prune(&base, None, &wanted).unwrap();
        let kept = TypeSet::decode(&vmlinux).unwrap();
        assert_eq!(find(&kept, "common").vlen, 2);
        assert!(kept.types.iter().all(|one| one.name != "sock"));
        assert!(tls.is_none());
    }

    #[test]
    fn a_module_counts_on_from_the_pruned_kernel() {
        let (vmlinux, tls) = pruned();
        assert_eq!(tls.first_id, vmlinux.end());
        let function = find(&tls, "tls_push_sg");
        let proto = &tls.types[(function.size_or_type - tls.first_id) as usize];
        let Rest::Parts(arguments) = &proto.rest else {
            panic!("{proto:?}");
        };
        let names: Vec<&str> = arguments.iter().map(|part| part.name.as_str()).collect();
        assert_eq!(names, ["sk", "flags"]);
        let sk = &vmlinux.types[arguments[0].of as usize - 1];
        assert_eq!((sk.kind, sk.size_or_type), (kind::PTR, 0));
        assert!(tls.types.iter().all(|one| one.name != "tls_other"));
    }
}
