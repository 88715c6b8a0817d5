//! What chain and flips come to.

use super::{
    chain,
    evidence::Evidence,
    findings::{LinkFinding, Outcome, RunName, RunReport, RunStatus},
};
use crate::correlate::chain::{LinkName, Status};

/// What it comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Decision {
    /// The outcome.
    pub(super) outcome: Outcome,
    /// In a sentence.
    pub(super) summary: String,
    /// The first link that does not hold.
    pub(super) broken_at: Option<LinkName>,
}

/// Whether the flips are worth running: there is a stall, and no link that contradicts it.
pub(super) fn has_stall(links: &[LinkFinding], baseline: &Evidence) -> bool {
    chain::broken_at(links).is_none() && baseline.corked_stalls() > 0
}

/// Decides. A difference that is understood (`explained`) does not refute.
pub(super) fn decide(
    links: &[LinkFinding],
    baseline: &Evidence,
    runs: &[RunReport],
    explained: &[RunName],
) -> Decision {
    let decided = |outcome, summary: String, broken_at| Decision {
        outcome,
        summary,
        broken_at,
    };
    let could_not = |summary| decided(Outcome::CouldNotTell, summary, None);
    if baseline.sends() == Some(0) && baseline.records().unwrap_or(0) == 0 {
        return decided(
            Outcome::NotSeen,
            "no kTLS socket of the workload sent anything".to_owned(),
            None,
        );
    }
    if let Some(link) = chain::broken_at(links) {
        let name = link.link.name();
        return decided(
            Outcome::Refuted,
            format!("the chain breaks at {name}: {}", link.detail),
            Some(link.link),
        );
    }
    if let Some(link) = links
        .iter()
        .find(|link| link.status == Status::NotObservable)
    {
        return could_not(format!(
            "{} can't be seen: {}",
            link.link.name(),
            link.detail
        ));
    }
    if baseline.corked_stalls() == 0 {
        return decided(
            Outcome::NotSeen,
            "every link was seen somewhere, but no socket was stalled by all of them".to_owned(),
            None,
        );
    }
    let of = |status| runs.iter().filter(move |run| run.status == status);
    if let Some(run) = of(RunStatus::Failed).next() {
        let why = run.note.as_deref().unwrap_or("it could not be run");
        return could_not(format!("{}: {why}", run.run.title()));
    }
    if let Some(run) = of(RunStatus::DoesNotHeal).find(|run| !explained.contains(&run.run)) {
        return decided(
            Outcome::Refuted,
            format!("{} does not heal it: the cause is another", run.run.title()),
            None,
        );
    }
    let heal = of(RunStatus::Heals).count();
    if heal == 0 {
        return could_not("every link was seen, but no flip could be run".to_owned());
    }
    let left_out = of(RunStatus::NotApplicable).count();
    let mut summary = if explained.is_empty() && left_out == 0 {
        "every link was seen, and every flip heals it".to_owned()
    } else {
        format!(
            "every link was seen, and {heal} of {} flips heal it",
            runs_flipped(runs)
        )
    };
    if !explained.is_empty() {
        summary.push_str("; the difference is named below");
    }
    decided(Outcome::Confirmed, summary, None)
}

/// How many flips there are.
fn runs_flipped(runs: &[RunReport]) -> usize {
    let baseline = |run: &&RunReport| run.status == RunStatus::Baseline;
    runs.len() - runs.iter().filter(baseline).count()
}

/// What is otherwise than in the report of the stall, and the flips that it explains. `small_mss` is what
/// that flip showed.
pub(super) fn differences(
    baseline: &Evidence,
    small_mss: Option<&Evidence>,
) -> (Vec<String>, Vec<RunName>) {
    let mut differences = Vec::new();
    let mut explained = Vec::new();
    if baseline.hung() {
        differences.push(
            "release-delayed: no timer is armed for what is held, no ACK is due, and only the close lets it \
             go: the sender hangs"
                .to_owned(),
        );
    }
    if let Some(small) = small_mss
        && small.holds.never_pushed > small.holds.below_mss
    {
        differences.push(
            "record-below-mss-held: the MSS does not matter. With MSG_SENDPAGE_NOTLAST (before 6.5) TCP is \
             not even asked to send, so whole segments are held too"
                .to_owned(),
        );
        explained.push(RunName::SmallMss);
    }
    (differences, explained)
}
