-- Give up what is done, if it is still held. Message: {groups, span}: each {batch or "", consumer,
-- claims, remember, entries, ids}; `span` as in queue_put. Returns the places, from 0 and counted
-- over all groups, of those that were not.
local groups, span = message[1], message[2]
local lost, before = {}, 0

-- Whether no one else can hold any of these entries, in so far as they are pending.
local function is_whole(batch, entries)
  if batch == '' or not redis.call('ZSCORE', batches, batch) then
    return false
  end
  local whole = true
  if redis.call('EXISTS', leases) == 1 then
    in_pieces(entries, function(...)
      for _, lease in ipairs(redis.call('ZMSCORE', leases, ...)) do
        whole = whole and not lease
      end
    end)
  end
  return whole
end

-- Which places of a whole batch were pending: Redis tells how many, and those that were not are
-- deleted already.
local function acknowledge(entries)
  local ours, count = {}, 0
  in_pieces(entries, function(...)
    count = count + redis.call('XACK', stream, group, ...)
  end)
  for place, entry in ipairs(entries) do
    ours[place] = count == #entries or #redis.call('XRANGE', stream, entry, entry) == 1
  end
  return ours
end

-- Which places are held by what Redis says of each.
local function look_up(entries, consumer, claims)
  local deliveries, ours = {}, {}
  for place, entry in ipairs(entries) do
    deliveries[place] = {entry, consumer, claims}
    ours[place] = true
  end
  local _, late = sort_out(deliveries)
  for _, place in ipairs(late) do
    ours[place + 1] = false
  end
  return ours
end

local function forget(names, remember)
  in_pieces(names, function(...)
    redis.call('SREM', ids, ...)
    if remember then
      redis.call('SADD', over_in(span, 0), ...)
    end
  end)
  if remember and #names > 0 then
    redis.call('EXPIRE', over_in(span, 0), 3 * span)
  end
end

local function close(batch)
  local first, last = string.match(batch, '(%S+) (%S+)')
  if not is_pending(first, last) then
    redis.call('ZREM', batches, batch)
  end
end

for _, each in ipairs(groups) do
  local batch, consumer, claims, remember, entries, names = unpack(each)
  local whole = is_whole(batch, entries)
  local ours = whole and acknowledge(entries) or look_up(entries, consumer, claims)
  local gone, known = {}, {}
  for place, is_ours in ipairs(ours) do
    if is_ours then
      gone[#gone + 1] = entries[place]
      known[#known + 1] = names[place]
    else
      lost[#lost + 1] = before + place - 1
    end
  end
  if whole then
    delete(gone)
    close(batch)
  else
    drop(gone)
  end
  forget(known, remember)
  before = before + #entries
end
return lost
