-- What the scripts of a queue share. KEYS: see QueueKeys. ARGV[2]: the group; ARGV[3]: a message.
--
-- What is read from the stream together is leased together, as a batch: "<first entry> <last entry>
-- <consumer>", with nothing else of the group between them. What is done to one entry of a batch
-- other than acknowledging it gives this entry a lease of its own in `leases`, once and for all. So
-- who holds a pending entry without one is known by its batch, for as long as that is in force.
local stream, batches, leases, released = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local delayed, bodies, ids, done, bell, new = KEYS[5], KEYS[6], KEYS[7], KEYS[8], KEYS[9], KEYS[10]
local group, message = ARGV[2], cmsgpack.unpack(ARGV[3])

local PIECE = 1000 -- arguments of one call; Lua's stack ends at some thousands

local function in_pieces(list, call)
  for from = 1, #list, PIECE do
    call(unpack(list, from, math.min(from + PIECE - 1, #list)))
  end
end

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

-- As the end of a lease: over, before everything that waits, in the order of arrival.
local function place_of(entry)
  local millis, number = string.match(entry, '(%d+)-(%d+)')
  return (millis - 4e12) * 1000 + math.min(number, 999)
end

-- Give each entry of batches that are over a lease of its own, which is over; those of about `limit`
-- entries.
local function part(limit)
  while limit > 0 do
    local batch = redis.call('ZRANGEBYSCORE', batches, '-inf', now, 'LIMIT', 0, 1)[1]
    if not batch then
      return
    end
    local first, last, consumer = string.match(batch, '(%S+) (%S+) (%S+)')
    for entry in pairs(claims_between(first, last, PIECE, consumer)) do
      redis.call('ZADD', leases, 'NX', place_of(entry), entry)
      limit = limit - 1
    end
    redis.call('ZREM', batches, batch)
    limit = limit - 1
  end
end

local function is_pending(from, upto)
  local found = redis.pcall('XPENDING', stream, group, from, upto, 1)
  return not found.err and #found > 0
end

-- Forget entries that are pending no more. (A batch that is left without one by something else than
-- acknowledging goes when nothing is pending at all, or with its lease.)
local function delete(entries)
  local alone = redis.call('EXISTS', leases) == 1
  in_pieces(entries, function(...)
    redis.call('XDEL', stream, ...)
    if alone then
      redis.call('ZREM', leases, ...)
      redis.call('HDEL', released, ...)
    end
  end)
  if not is_pending('-', '+') then
    redis.call('DEL', batches)
  end
end

local function drop(entries)
  in_pieces(entries, function(...)
    redis.call('XACK', stream, group, ...)
  end)
  delete(entries)
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
