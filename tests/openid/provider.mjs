// An OpenID provider for tests: oidc-provider with a login form that takes any name. Its argument is a JSON object:
// issuer, port (0: any), client, secret, redirect, logout, jwks, claims. It prints a line when it listens.
import dns from 'node:dns';
import { Provider } from 'oidc-provider';

const settings = JSON.parse(process.argv[2]);

// As browsers do: every name below .localhost is this machine.
const lookup = dns.lookup;
dns.lookup = (name, ...rest) => lookup(name.endsWith('.localhost') ? '127.0.0.1' : name, ...rest);

const provider = new Provider(settings.issuer, {
  clients: [{
    client_id: settings.client,
    ...(settings.secret ? { client_secret: settings.secret } : { token_endpoint_auth_method: 'none' }),
    redirect_uris: [settings.redirect],
    id_token_signed_response_alg: settings.jwks.keys[0].alg,
    ...(settings.logout && { backchannel_logout_uri: settings.logout, backchannel_logout_session_required: true }),
  }],
  jwks: settings.jwks,
  cookies: { keys: ['a key for cookies of tests'] },
  claims: { openid: ['sub', ...Object.keys(settings.claims)] },
  conformIdTokenClaims: false,
  pkce: { required: () => true },
  features: { devInteractions: { enabled: false }, backchannelLogout: { enabled: true } },
  // Without the provider's own refusal of private addresses: all of the tests' are.
  fetch: (url, { dispatcher, ...options }) => fetch(url, options),
  interactions: { url: (ctx, interaction) => `/interaction/${interaction.uid}` },
  findAccount: (ctx, id) => ({ accountId: id, claims: () => ({ sub: id, ...settings.claims }) }),
  async loadExistingGrant(ctx) {
    const { account, client } = ctx.oidc;
    const grant = new ctx.oidc.provider.Grant({ accountId: account.accountId, clientId: client.clientId });
    grant.addOIDCScope('openid');
    await grant.save();
    return grant;
  },
});

provider.use(async (ctx, next) => {
  if (!ctx.path.startsWith('/interaction/')) return next();
  if (ctx.method === 'GET') {
    ctx.type = 'html';
    ctx.body = `<!doctype html><html lang="en"><title>Provider</title><form method="post"><label>User
      <input name="user"></label><button>Sign in</button> <button name="cancel" value="1">Cancel</button></form>`;
    return undefined;
  }
  let body = '';
  for await (const chunk of ctx.req) body += chunk;
  const form = new URLSearchParams(body);
  const result = form.has('cancel') ? { error: 'access_denied' } : { login: { accountId: form.get('user') } };
  ctx.respond = false;
  return provider.interactionFinished(ctx.req, ctx.res, result);
});

for (const event of ['server_error', 'authorization.error', 'grant.error', 'end_session.error']) {
  provider.on(event, (ctx, error) => console.error(event, error.message, error.error_description ?? ''));
}
provider.on('backchannel.error', (ctx, error) => console.error('backchannel.error', error.message, error.cause ?? ''));
provider.on('backchannel.success', () => console.error('backchannel.success'));
const server = provider.listen(settings.port, '127.0.0.1', () => console.log(`listens ${server.address().port}`));
