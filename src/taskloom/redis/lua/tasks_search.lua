-- Tasks, the newest first. Message: {filters, limit, after}: a map of fields to values; `after` an id
-- or "". Returns {rows, cursor}: an id to go on after when not everything was looked at, else "".
local filters, limit, after = message[1], message[2], message[3]
local LOOKED_AT = 2000

-- The shortest of the indexes that hold everything that is asked for.
local index = base .. 'all'
for _, name in ipairs({'queue', 'status', 'entity'}) do
  if filters[name] then
    local other = base .. name .. ':' .. filters[name]
    if redis.call('ZCARD', other) < redis.call('ZCARD', index) then
      index = other
    end
  end
end

-- The place that follows `after`, which may have left this index: then it stands there for a moment,
-- for nothing else compares members exactly as Redis does.
local function place_after()
  if after == '' then
    return 0
  end
  local made = redis.call('ZSCORE', base .. 'all', after)
  if not made then
    return nil
  end
  local added = redis.call('ZADD', index, made, after)
  local place = redis.call('ZREVRANK', index, after) + 1
  if added == 1 then
    redis.call('ZREM', index, after)
    place = place - 1
  end
  return place
end

local function matches(id)
  for name, value in pairs(filters) do
    if redis.call('HGET', task_key(id), name) ~= value then
      return false
    end
  end
  return true
end

local rows, place = {}, place_after()
if not place then
  return {rows, ''}
end
for _, id in ipairs(redis.call('ZREVRANGE', index, place, place + LOOKED_AT - 1)) do
  if matches(id) then
    rows[#rows + 1] = read(id)
  end
  if #rows == limit then
    return {rows, ''}
  end
  after = id
  place = place + 1
end
return {rows, place < redis.call('ZCARD', index) and after or ''}
