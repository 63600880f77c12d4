//! From answers to a verdict.

use halloo_wire::candidate::{Allocation, Dependence, Verdict};

use super::allocation::{Choice, classify};
use super::ask::Question;
use super::{CHOICE_SOCKETS, Opening, Ports, Prober, ProberEvent};
use crate::output::Output;
use crate::predict::address_dependent;

impl Prober {
    /// Draws conclusions when answers are complete.
    pub(super) fn settle(&mut self) {
        let waits_for = |f: fn(Question) -> bool| self.asks.iter().any(|a| f(a.question));
        if waits_for(|q| matches!(q, Question::Home | Question::SecondPort | Question::OtherPeer))
            || self.observed().is_none()
        {
            return;
        }
        let dependent =
            address_dependent(&Verdict { mapping: self.mapping(), ..Verdict::default() });
        match self.ports {
            Ports::Later if dependent => {
                self.ports = Ports::Asking;
                self.open(Opening::Choices, CHOICE_SOCKETS);
                return;
            }
            Ports::Later => self.ports = Ports::Known(self.conclude(dependent)),
            Ports::Asking => {
                if self.opening.contains(&Opening::Choices)
                    || waits_for(|q| matches!(q, Question::Choice { .. }))
                {
                    return;
                }
                self.ports = Ports::Known(self.conclude(dependent));
                let sockets = std::mem::take(&mut self.choosers);
                self.close(sockets);
            }
            Ports::Known(_) => {}
        }
        let verdict = self.verdict();
        if self.told != Some(verdict) {
            self.told = Some(verdict);
            self.queue.push_back(Output::Event(ProberEvent::Verdict(verdict)));
        }
    }

    fn conclude(&mut self, dependent: bool) -> Allocation {
        if !dependent {
            let main = self.main_choice();
            return if main.inside == main.outside {
                Allocation::Preserving
            } else {
                Allocation::Unknown
            };
        }
        self.choices.sort_by_key(|&(place, _)| place);
        let later = self.choices.iter().map(|&(_, choice)| choice);
        let choices: Vec<Choice> = std::iter::once(self.main_choice()).chain(later).collect();
        classify(&choices)
    }

    /// What the NAT chose for the main socket.
    fn main_choice(&self) -> Choice {
        let seen = self.seen(Question::SecondPort).or(self.observed());
        Choice { inside: self.config.port, outside: seen.map_or(0, |a| a.port()) }
    }

    pub(super) fn mapping(&self) -> Dependence {
        let Some(home) = self.observed() else { return Dependence::Unknown };
        let second = self.seen(Question::SecondPort);
        let other = self.seen(Question::OtherPeer).filter(|a| a.is_ipv4() == home.is_ipv4());
        let untranslated = self.config.ips.contains(&home.ip()) && self.config.port == home.port();
        match (second, other) {
            (Some(second), _) if second != home => Dependence::AddressAndPortDependent,
            (_, Some(other)) if other != home => Dependence::AddressDependent,
            (None, None) if !untranslated => Dependence::Unknown,
            _ => Dependence::EndpointIndependent,
        }
    }
}
