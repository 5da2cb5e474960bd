/** @file What a server of keys is given where nobody wants to know what it did when. */
export const UNBOOKED = {
  clockwork: { stepStarted: () => {}, stepEnded: () => {}, inserted: () => {} },
  timeline: { add: () => {} },
};
