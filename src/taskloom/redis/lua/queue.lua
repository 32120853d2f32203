-- What the scripts of a queue share. KEYS: see QueueKeys. ARGV[2]: the group; ARGV[3]: a message.
local stream, leases, released, delayed = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local bodies, ids, done, bell, new = KEYS[5], KEYS[6], KEYS[7], KEYS[8], KEYS[9]
local group, message = ARGV[2], cmsgpack.unpack(ARGV[3])

local PIECE = 1000 -- arguments of one call; Lua's stack ends at some thousands

local function ring()
  redis.call('XADD', bell, 'MAXLEN', '1', '*', 'r', '')
end

local function enter(id, deliveries, body)
  redis.call('XADD', stream, '*', 'i', id, 'n', deliveries, 'b', body)
end

-- The set of ids that were acknowledged so many spans ago; a span is given in seconds. Only here is
-- the time known, so the name is made here; its slot is that of all the keys.
local function over_in(span, ago)
  return done .. ':' .. (math.floor(now / 1000000 / span) - ago)
end

-- Wait for `due`, in microseconds, or stand in line at once.
local function wait(id, due, deliveries, body)
  if due <= now then
    enter(id, deliveries, body)
  else
    redis.call('ZADD', delayed, due, id)
    redis.call('HSET', bodies, id, deliveries .. ' ' .. body)
  end
end

-- Of up to `count` entries from `from` to `upto` that `consumer` holds: how often each was claimed.
local function claims_between(from, upto, count, consumer)
  local claims = {}
  local found = redis.pcall('XPENDING', stream, group, from, upto, count, consumer)
  if not found.err then -- otherwise there is no group
    for _, each in ipairs(found) do
      claims[each[1]] = each[4]
    end
  end
  return claims
end

local function drop(entries)
  for from = 1, #entries, PIECE do
    local upto = math.min(from + PIECE - 1, #entries)
    redis.call('XACK', stream, group, unpack(entries, from, upto))
    redis.call('XDEL', stream, unpack(entries, from, upto))
    redis.call('ZREM', leases, unpack(entries, from, upto))
    redis.call('HDEL', released, unpack(entries, from, upto))
  end
end

-- The deliveries {entry, consumer, claims, ...} that are still in force, the places of the others.
-- Many are looked up with one call, for a consumer holds little else; what that missed, alone.
local function sort_out(deliveries)
  local ours, lost, known = {}, {}, {}
  for place, each in ipairs(deliveries) do
    local entry, consumer = each[1], each[2]
    if #deliveries > 10 and not known[consumer] then
      known[consumer] = claims_between('-', '+', 2 * #deliveries, consumer)
    end
    local claims = known[consumer] and known[consumer][entry]
    if not claims then
      claims = claims_between(entry, entry, 1, consumer)[entry]
    end
    if claims == each[3] then
      ours[#ours + 1] = each
    else
      lost[#lost + 1] = place - 1
    end
  end
  return ours, lost
end
