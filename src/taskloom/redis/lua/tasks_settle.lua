-- Carry out a settlement, all of it in this one step. Message: a map of
--   added, revived: each {id, row};  cancelled, unqueued: ids
--   reason: JSON of {"cancelled_reason": …};  fenced: whether leases are compared
--   endings: each a map of id, epoch, status, result ("" for none), stats (nil: as they are), row (the
--     whole task as it ends; where leases are compared only if it goes on), goes_on, children
-- Returns the ids for which nothing was written.
local refused = {}

local function refuse(id)
  refused[#refused + 1] = id
end

local function write_ending(id, row, ending, epoch)
  if row and not ending.goes_on then
    change(id, row, {
      status = ending.status, result = ending.result, updated = now, lease = '', deliveries = 0,
      epoch = epoch, stats = ending.stats
    })
    return
  end
  local new = ending.row
  new.updated, new.epoch = now, epoch
  if row then
    local stats = ending.stats or redis.call('HGET', task_key(id), 'stats')
    replace(id, row, new, {stats = stats})
  else
    insert(id, new)
  end
end

-- Whether what it says holds now.
local function end_fenced(ending)
  local id = ending.id
  local row = find(id)
  if not row or tonumber(row.epoch) ~= ending.epoch then
    return false
  end
  if row.status ~= 'processing' then
    -- Settled under this lease before: said again it is true, another word is too late.
    return row.status == ending.status
  end
  write_ending(id, row, ending, row.epoch)
  return true
end

local function end_unfenced(ending)
  local row = find(ending.id)
  if row and TERMINAL[row.status] then
    return row.status == ending.status
  end
  write_ending(ending.id, row, ending, row and row.epoch + 1 or 0)
  return true
end

-- Two JSON objects as one; numbers and empty lists would not survive `cjson`.
local function joined(one, other)
  if one == '{}' then
    return other
  end
  return string.sub(one, 1, -2) .. ',' .. string.sub(other, 2)
end

for _, each in ipairs(message.added) do
  add(each[1], each[2])
end
for _, ending in ipairs(message.endings) do
  if (message.fenced and end_fenced or end_unfenced)(ending) then
    for _, child in ipairs(ending.children) do
      add(child[1], child[2])
    end
  else
    refuse(ending.id)
  end
end
for _, id in ipairs(message.cancelled) do
  local row = find(id)
  if row and WAITS[row.status] then
    local stats = joined(redis.call('HGET', task_key(id), 'stats'), message.reason)
    change(id, row, {status = 'cancelled', stats = stats, updated = now, epoch = row.epoch + 1})
  else
    refuse(id)
  end
end
for _, each in ipairs(message.revived) do
  local id = each[1]
  local row = find(id)
  if row and TERMINAL[row.status] then
    replace(id, row, each[2], {updated = now, epoch = row.epoch + 1})
  else
    refuse(id)
  end
end
for _, id in ipairs(message.unqueued) do
  local row = find(id)
  if row and row.status == 'queued' then
    change(id, row, {status = 'scheduled', updated = now, epoch = row.epoch + 1})
  else
    refuse(id)
  end
end
return refused
