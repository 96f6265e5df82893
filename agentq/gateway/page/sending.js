// What a person writes is sent, also what looks like a credential, but only when they say so.

import { post } from "./api.js";
import { confirmed } from "./dialog.js";

/** Post a text; of one that is refused for what it looks like, ask first whether it is to be sent all the same. */
export async function send(where, body, key) {
  try {
    return await post(where, body, key);
  } catch (error) {
    if (!error.isCredential) throw error;
    const sure = await confirmed("Does this hold a credential?", {
      text: `${error.detail}. What is sent is kept, and is read by others: name the place where it is found instead, if it is one.`,
      doing: "Send it all the same",
      danger: true,
    });
    if (sure !== null) return post(where, { ...body, allow_secrets: true }, key);
    error.hint = "It was not sent: take that out, and name the place where it is found.";
    throw error;
  }
}
