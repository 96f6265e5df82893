// Who the gateway takes us for, and what we may do.

import { get } from "./api.js";

let grant = { name: "", roles: [], agent: null, everything: false };

/** Ask anew who we are. */
export async function learnMe() {
  grant = await get("me");
  return grant;
}

/** Whom our token names, and its roles. */
export function me() {
  return grant;
}

/** Whether we have that role; the gateway decides, this only leaves out what would be refused. */
export function may(role) {
  return grant.everything || grant.roles.includes(role);
}
